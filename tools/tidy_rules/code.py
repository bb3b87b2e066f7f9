# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Rules over the functions of C files: length, braces, goto, recursion, assertions, main."""

import re

FUNCTION_LINES_MAX = 70
MAIN_LINES_MAX = 16
ASSERTED_LINES_MIN = 10
# The house wants two (style), of every layer that is not named here. These are a ratchet: they follow the tree upwards,
# down to a tenth, until they are two and go; they are never lowered.
ASSERTIONS_PER_FUNCTION_MIN = 2.0
ASSERTIONS_PER_FUNCTION_MIN_OF = {
    "sim": 0.7,
    "simcli": 1.5,
    "simlib": 1.5,
    "store": 1.9,
}


def check_function_length(source):
    for function in source.functions:
        if function.line_count > FUNCTION_LINES_MAX:
            yield source.finding(
                "function-length",
                function.first,
                f"{function.name} has {function.line_count} lines, at most {FUNCTION_LINES_MAX}",
            )


def matching_parenthesis(code, at):
    depth = 0
    for offset in range(at, len(code)):
        if code[offset] == "(":
            depth += 1
        elif code[offset] == ")":
            depth -= 1
            if depth == 0:
                return offset
    return len(code)


def check_braces(source):
    for function in source.functions:
        body = function.body
        for match in re.finditer(r"\b(if|for|while|switch)\s*\(|\b(else|do)\b", body):
            if match.group(1):
                end = matching_parenthesis(body, match.end() - 1) + 1
            else:
                end = match.end()
            rest = body[end:].lstrip()
            is_tail = match.group(1) == "while" and rest.startswith(";")
            is_else_if = match.group(2) == "else" and re.match(r"if\b", rest)
            if not rest.startswith("{") and not is_tail and not is_else_if:
                line = function.body_line + body.count("\n", 0, match.start())
                word = match.group(1) or match.group(2)
                yield source.finding("braces", line, f"{word} without braces")


def check_goto(source):
    for function in source.functions:
        labels = {
            match.group(1): match.start()
            for match in re.finditer(r"^\s*([a-z_]\w*):(?!:)", function.body, re.M)
            if match.group(1) != "default"
        }
        for match in re.finditer(r"\bgoto\s+(\w+)", function.body):
            line = function.body_line + function.body.count("\n", 0, match.start())
            if labels.get(match.group(1), 0) < match.start():
                yield source.finding("goto", line, f"goto {match.group(1)} leads backwards")


def check_names(source):
    if not source.path.startswith("src/") or not source.path.endswith(".c"):
        return
    for function in source.functions:
        if not function.is_static and function.name != "main":
            if not function.name.startswith("kelpie_"):
                yield source.finding(
                    "name", function.first, f"{function.name} is not static and not kelpie_*"
                )


def check_main(source):
    if not re.fullmatch(r"src/\w+/main\.c", source.path):
        return
    for function in source.functions:
        if function.name != "main":
            yield source.finding("main", function.first, "main.c holds main() and nothing else")
        elif function.line_count > MAIN_LINES_MAX:
            yield source.finding("main", function.first, "main() only makes a table and calls")


def check_recursion(sources):
    """Finds cycles among calls by name, over all files: more than clang-tidy's misc-no-recursion sees in one file."""
    table = {}
    for source in sources:
        for function in source.functions if source.layer else []:
            scope = source.path if function.is_static else ""
            table[(scope, function.name)] = (source, function)
    edges = {}
    for key, (source, function) in table.items():
        candidates = ((path, name) for name in function.calls() for path in (source.path, ""))
        edges[key] = [candidate for candidate in candidates if candidate in table]
    for cycle in find_cycles(edges):
        source, function = table[cycle[0]]
        names = " -> ".join(name for _, name in cycle + cycle[:1])
        yield source.finding("recursion", function.first, f"recursion: {names}")


def find_cycles(edges):
    """Depth-first search with an explicit stack; one cycle per back edge."""
    state, cycles = {}, []
    for root in edges:
        if root in state:
            continue
        path, stack = [], [(root, iter(edges[root]))]
        state[root] = "open"
        path.append(root)
        while stack:
            node, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                stack.pop()
                path.pop()
                state[node] = "done"
            elif target not in state:
                state[target] = "open"
                path.append(target)
                stack.append((target, iter(edges[target])))
            elif state[target] == "open":
                cycles.append(path[path.index(target) :])
    return cycles


def assertion_counts(sources):
    """Per layer: functions of ten lines and more, and assertions, static ones and invariant checks among them."""
    counts = {}
    for source in sources:
        if not source.layer:
            continue
        entry = counts.setdefault(source.layer, [0, 0])
        entry[0] += sum(function.line_count >= ASSERTED_LINES_MIN for function in source.functions)
        entry[1] += len(re.findall(r"\b(KELPIE_ASSERT|static_assert|\w+_check)\s*\(", source.code))
    return counts


def check_assertions(sources):
    for layer, (functions, assertions) in sorted(assertion_counts(sources).items()):
        minimum = ASSERTIONS_PER_FUNCTION_MIN_OF.get(layer, ASSERTIONS_PER_FUNCTION_MIN)
        if functions and assertions / functions < minimum:
            first = next(source for source in sources if source.layer == layer)
            yield first.finding(
                "assertions",
                1,
                f"src/{layer} has {assertions / functions:.2f} assertions per function of {ASSERTED_LINES_MIN}"
                f" lines and more, at least {minimum}",
            )


FUNCTION_CHECKS = [check_function_length, check_braces, check_goto, check_names, check_main]
TREE_CHECKS = [check_recursion, check_assertions]
