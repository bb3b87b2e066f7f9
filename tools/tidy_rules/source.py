# SPDX-License-Identifier: Apache-2.0 OR MIT
"""A C file as the rules see it: its text, its code without comments and strings, and its functions."""

import re

KEYWORDS = {"if", "for", "while", "switch", "return", "sizeof", "do", "else", "defined", "typeof"}


class Finding:
    """One broken rule: where, which, and what to do about it."""

    def __init__(self, rule, path, line, text):
        self.rule, self.path, self.line, self.text = rule, path, line, text

    def __str__(self):
        return f"{self.path}:{self.line}: {self.text} [{self.rule}]"


class Function:
    """A function definition: `first` to `last` are line numbers, `body` is code without comments."""

    def __init__(self, name, first, last, header, body, body_line):
        self.name, self.first, self.last = name, first, last
        self.header, self.body, self.body_line = header, body, body_line

    @property
    def line_count(self):
        return self.last - self.first + 1

    @property
    def is_static(self):
        return re.search(r"\bstatic\b", self.header) is not None

    def calls(self):
        names = re.findall(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(", self.body)
        return {name for name in names if name not in KEYWORDS}


def blank(text):
    return re.sub(r"[^\n]", " ", text)


TOKEN = re.compile(
    r"""/\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""", re.S | re.X
)


def strip_code(text):
    """Returns the code with comments and the insides of literals blanked, and the lines of // comments."""
    line_comments = []

    def replace(match):
        token = match.group(0)
        if token.startswith("//"):
            line_comments.append(text.count("\n", 0, match.start()) + 1)
            return blank(token)
        if token.startswith("/*"):
            return blank(token)
        return token[0] + blank(token[1:-1]) + token[-1]

    return TOKEN.sub(replace, text), line_comments


def blank_preprocessor(code):
    lines = code.split("\n")
    is_directive = False
    for index, line in enumerate(lines):
        if is_directive or line.lstrip().startswith("#"):
            is_directive = line.endswith("\\")
            lines[index] = blank(line)
    return "\n".join(lines)


def function_name(header):
    """The first identifier of `header` before a top-level parenthesis that is no attribute."""
    depth, name = 0, None
    for match in re.finditer(r"([A-Za-z_]\w*)?\s*\(|\)", header):
        if match.group(0) == ")":
            depth -= 1
            continue
        word = match.group(1)
        if depth == 0 and word and not word.startswith("__attribute") and not word.isupper():
            name = name or word
        depth += 1
    return name


def find_functions(code):
    """Every function definition of preprocessed-away `code`, in order."""
    functions = []
    depth, start, header_start = 0, 0, 0
    header = ""
    for match in re.finditer(r"[{};]", code):
        token, at = match.group(0), match.start()
        if token == "{":
            if depth == 0:
                header, start = code[header_start:at], at
                if re.fullmatch(r'\s*extern\s*"\s*"\s*', header):
                    header_start = at + 1
                    continue
            depth += 1
        elif token == "}":
            if depth == 0:
                header_start = at + 1
                continue
            depth -= 1
            if depth == 0:
                name = function_name(header)
                if name and "=" not in header and header.rstrip().endswith(")"):
                    # Macro invocations without a semicolon may stand before: the last paragraph is it.
                    paragraph = re.split(r"\n[ \t]*\n\s*", header)[-1].lstrip()
                    first = code.count("\n", 0, start - len(paragraph)) + 1
                    last = code.count("\n", 0, at) + 1
                    body_line = code.count("\n", 0, start) + 1
                    functions.append(
                        Function(name, first, last, header, code[start : at + 1], body_line)
                    )
                header_start = at + 1
        elif depth == 0:
            header_start = at + 1
    return functions


class Source:
    """One file of the tree; everything derived from its text is computed once."""

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.lines = text.split("\n")
        self.is_c = path.endswith((".c", ".h"))
        self.code, self.line_comments, self.functions = "", [], []
        if self.is_c:
            self.code, self.line_comments = strip_code(text)
            self.functions = find_functions(blank_preprocessor(self.code))

    @property
    def layer(self):
        """The folder below src, or None."""
        parts = self.path.split("/")
        return parts[1] if parts[0] == "src" and len(parts) > 2 else None

    def finding(self, rule, line, text):
        return Finding(rule, self.path, line, text)

    def line_of(self, offset):
        return self.code.count("\n", 0, offset) + 1
