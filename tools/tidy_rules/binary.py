# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Rules over a build directory: what the archives call and keep, what the library shows, the agent's size."""

import os
import re
import subprocess

from .source import Finding, strip_code

AGENT_BYTES_MAX = 200 * 1024
# Which archives an archive may take symbols from, besides itself: the link-time half of text.INCLUDES.
LINKS = {
    "os": ["core"],
    "core": ["os"],
    "wire": ["core", "os"],
    "store": ["core", "os"],
    "vmm": ["core", "os"],
    "monitor": ["vmm", "store", "wire", "core", "os"],
    "lib": ["store", "wire", "core", "os"],
    "keeper": ["lib", "store", "wire", "core", "os"],
    "agent": ["wire", "core", "os"],
    "cli": ["lib", "core", "os"],
    "pack": ["store", "core", "os"],
    "krun": ["core", "os"],
    "sim": ["os", "os_fault", "core", "wire", "store", "vmm", "monitor", "lib", "agent", "cli", "keeper"],
    "simlib": ["sim", "lib", "core", "os"],
}
# Outside the seam: they call the system themselves. The simulator's memory comes from libc: a list of its own.
# simlib and simcli are programs of tests: they print.
OUTSIDE_SEAM = {"os", "pack", "krun", "simlib"}
SIM_PREFIX = "kelpie__sim_"
LIBC_ONLY = re.compile(r"libc\.so\.6|ld-linux-x86-64\.so\.2|ld-linux-aarch64\.so\.1")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def archive_path(build, layer):
    return os.path.join(build, "src", f"lib{layer}.a")


def archives(build):
    return {
        layer: archive_path(build, layer)
        for layer in LINKS
        if os.path.exists(archive_path(build, layer))
    }


def symbols(path):
    """Two sets of an archive: names defined for others, names taken from others."""
    defined, wanted = set(), set()
    for line in run("nm", "--no-sort", path).splitlines():
        match = re.match(r"[0-9a-f ]*\s([A-Za-z])\s(\S+)$", line)
        if match and match.group(1) in "UwVv" and match.group(1) == "U":
            wanted.add(match.group(2))
        elif match and match.group(1).isupper():
            defined.add(match.group(2))
    return defined, wanted - defined


def read_list(text):
    """`NAME REASON` a line; a name without a reason is an error of the list itself."""
    entries = {}
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split(None, 1)
        if len(fields) == 1:
            raise ValueError(f"{fields[0]} has no reason")
        if fields:
            entries[fields[0]] = fields[1]
    return entries


def check_undefined(build, allowed, allowed_sim=None):
    """Nothing but os calls the system, and nobody calls a layer above."""
    allowed_sim = allowed_sim or {}
    paths = archives(build)
    table = {layer: symbols(path) for layer, path in paths.items()}
    owner = {name: layer for layer, (defined, _) in table.items() for name in defined}
    for layer, (_, wanted) in table.items():
        for name in sorted(wanted):
            if name.startswith("kelpie_"):
                home = owner.get(name)
                if home is not None and home != layer and home not in LINKS[layer]:
                    text = f"{layer} calls {name} of {home}, a layer it may not know"
                    yield Finding("layer-link", paths[layer], 0, text)
            elif layer == "sim" and name in allowed_sim:
                continue
            elif layer not in OUTSIDE_SEAM and name not in allowed:
                text = f"{layer} needs {name}, which is not in tools/allowed-symbols.txt"
                yield Finding("seam", paths[layer], 0, text)


def check_statics(build, allowed):
    """No mutable object outlives a call: sixty simulated processes will share one address space."""
    for layer, path in archives(build).items():
        for line in run("objdump", "--syms", path).splitlines():
            match = re.match(r"[0-9a-f]+ .{7} (\S+)\s+([0-9a-f]+)\s+(?:\.hidden )?(\S+)$", line)
            if not match or match.group(1) == match.group(3) or int(match.group(2), 16) == 0:
                continue
            section, name = match.group(1), match.group(3)
            is_mutable = re.match(r"\.(data|bss|tdata|tbss)|\*COM\*", section)
            if is_mutable and not section.startswith(".data.rel.ro") and name not in allowed:
                yield Finding("mutable-static", path, 0, f"{name} lives in {section}")


def header_functions(text):
    """The functions that a public header declares."""
    code, _ = strip_code(text)
    code = re.sub(r"^\s*#.*?(?<!\\)$", "", code, flags=re.M | re.S)
    code = re.sub(r"\{[^{}]*\}", "", code)
    return set(re.findall(r"(?<!\(\*)\b(kelpie_\w+)\s*\((?!\s*\*)", code))


def exported(library):
    names = {}
    for line in run("nm", "-D", "--defined-only", library).splitlines():
        match = re.match(r"[0-9a-f]+ [TDBRWi] ([^@\s]+)(?:@@(\S+))?", line)
        if match:
            names[match.group(1)] = match.group(2)
    return names


def check_exports(library, header_text, header_name="kelpie.h"):
    declared = header_functions(header_text)
    names = exported(library)
    for name in sorted(declared - names.keys()):
        yield Finding("exports", library, 0, f"{name} is declared in {header_name} and not exported")
    for name in sorted(names.keys() - declared):
        yield Finding("exports", library, 0, f"{name} is exported and not declared in {header_name}")
    for name, version in sorted(names.items()):
        if version is None or not version.startswith("KELPIE_"):
            yield Finding("exports", library, 0, f"{name} has no symbol version")


def check_no_simulator(paths):
    """No product carries a simulator; `sim:` loads it."""
    for path in paths:
        for line in run("nm", path).splitlines():
            name = line.split()[-1]
            if name.startswith(SIM_PREFIX):
                yield Finding("sim-in-product", path, 0, f"has {name} of the simulator")
                break


MARK = re.compile(r'KELPIE_(?:REACHED|SOMETIMES)\(\s*[^,"]+,\s*"([^"]*)"')


def mark_texts(root):
    """The texts of all marks (os/os_mark.h) of the tree."""
    texts = set()
    for folder, _, names in os.walk(os.path.join(root, "src")):
        for name in names:
            if name.endswith(".c"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    texts.update(MARK.findall(file.read()))
    return texts


def check_no_marks(paths, texts):
    """Marks and canaries are of the simulator's own build: no product carries one."""
    for path in paths:
        with open(path, "rb") as file:
            content = file.read()
        found = sorted(text for text in texts if text.encode() + b"\0" in content)
        if found or "kelpie_marks" in run("readelf", "-SW", path):
            name = found[0] if found else "of section kelpie_marks"
            yield Finding("mark-in-product", path, 0, f"has the mark \"{name}\"")


def check_needed(path):
    for line in run("readelf", "-d", path).splitlines():
        match = re.search(r"\(NEEDED\).*\[(.+)\]", line)
        if match and not LIBC_ONLY.fullmatch(match.group(1)):
            yield Finding("needed", path, 0, f"needs {match.group(1)}; libc only")


def check_agent(path):
    size = os.path.getsize(path)
    if size > AGENT_BYTES_MAX:
        yield Finding("agent-size", path, 0, f"{size} bytes, at most {AGENT_BYTES_MAX}")
    if "INTERP" in run("readelf", "-lW", path):
        yield Finding("agent-static", path, 0, "the agent must be static")
    if re.search(r"GNU_STACK\s+\S+\s+\S+\s+\S+\s+\S+\s+\S+\s+RWE", run("readelf", "-lW", path)):
        yield Finding("agent-static", path, 0, "the agent has an executable stack")


def check_build(build, root):
    def listed(name):
        with open(os.path.join(root, "tools", name), encoding="utf-8") as file:
            return read_list(file.read())

    yield from check_undefined(
        build, listed("allowed-symbols.txt"), listed("allowed-symbols-sim.txt")
    )
    yield from check_statics(build, listed("allowed-statics.txt"))
    library, monitor, keeper, command, agent = (
        os.path.join(build, "src", name)
        for name in ("libkelpie.so", "kelpie-monitor", "kelpie-keeper", "kelpie", "kelpie-agent")
    )
    everything = (library, monitor, keeper, command, agent)
    missing = [path for path in everything if not os.path.exists(path)]
    if missing:
        yield from (Finding("missing", path, 0, "was not built") for path in missing)
        return
    with open(os.path.join(root, "include", "kelpie.h"), encoding="utf-8") as file:
        yield from check_exports(library, file.read())
    for path in (library, monitor, keeper, command):
        yield from check_needed(path)
    yield from check_no_simulator((library, monitor, keeper, command))
    yield from check_no_marks(everything, mark_texts(root))
    yield from check_agent(agent)
