# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What is said of measured values: medians, ratios with their uncertainty, tables and pictures.

A ratio is that of two medians. Its interval comes from the bootstrap: the rounds of both sides are drawn again, with
replacement, many times. When that interval holds 1, the noise is larger than the effect, and no ratio is given.
"""
import random

BOOTSTRAP_DRAWS = 2000
CONFIDENCE = 0.95
SEED = 0x6B656C70  # the same values give the same report

# name, series, the one it is compared with, True: smaller is better, what is aimed at (of the ratio)
COMPARISONS = (
    ("boot to first result", "boot/kelpie", "boot/raw", True, 1.10),
    ("boot to first result, processor time", "boot/kelpie-cpu", "boot/raw-cpu", True, None),
    ("warm exec", "exec/kelpie", "exec/raw", True, 1.15),
    ("warm exec, against a bare echo", "exec/kelpie", "exec/echo", True, None),
    ("warm exec, p99 against median", "exec/p99", "exec/p50", True, 2.0),
    ("p99 of 10,000 commands, against their median", "tail/p99", "tail/p50", True, 2.0),
    ("the last 1,000 of 10,000, against the first", "tail/last", "tail/first", True, None),
    ("the same, processor time", "tail/last-cpu", "tail/first-cpu", True, None),
    ("16 commands at once, against the guest's fork", "parallel/kelpie", "parallel/raw", False, 0.9),
    ("stdout", "stream/out-kelpie", "stream/out-raw", False, 0.85),
    ("stdin", "stream/in-kelpie", "stream/in-raw", False, 0.85),
    ("pause, booted, 100 MB in use", "snapshot/booted-kelpie", "snapshot/booted-raw", True, 1.3),
    ("the same against savevm", "snapshot/booted-kelpie", "snapshot/booted-savevm", True, 0.1),
    ("pause, little changed", "snapshot/small-kelpie", "snapshot/small-raw", True, 1.3),
    ("the same against savevm", "snapshot/small-kelpie", "snapshot/small-savevm", True, 0.1),
    ("restore to first result", "restore/kelpie", "restore/raw", True, 1.15),
    ("restore, processor time", "restore/kelpie-cpu", "restore/raw-cpu", True, None),
    ("restore in place", "restore/in-place", "restore/raw", True, None),
    ("fork to first result", "fork/kelpie", "fork/raw", True, None),
    ("fork with a QEMU waiting, to first result", "fork/waiting", "fork/waiting-raw", True, 1.15),
    ("each of 1,000 queued commands, against one alone", "queue/1000", "queue/1", True, 1.0),
    ("warm exec, against qemu-guest-agent asked at once", "peer/kelpie", "peer/guest-agent", True, 0.2),
    ("the same, asked every 10 ms", "peer/kelpie", "peer/guest-agent-10ms", True, 0.2),
    ("the same, asked every 100 ms", "peer/kelpie", "peer/guest-agent-100ms", True, 0.2),
    ("each of 100 VMs, against each of 10: start", "density/start-of-100", "density/start-of-10", True, 1.0),
    ("the same: a command", "density/exec-of-100", "density/exec-of-10", True, 1.0),
    ("the same: stop", "density/stop-of-100", "density/stop-of-10", True, 1.0),
    ("the same: all three", "density/each-of-100", "density/each-of-10", True, 1.0),
    ("private memory of a clone", "density/clone", "density/raw", True, None),
    ("private memory of a booted VM", "density/booted", "density/booted-raw", True, None),
    ("private memory, 128 MiB at rest, against naive", "idle/kelpie", "idle/naive", True, 0.5),
    ("the same, booted", "idle/booted", "idle/naive", True, None),
    ("kelpie run, against microsandbox's", "nested/run-kelpie", "nested/run-msb", True, 1.0),
    ("the same, booted", "nested/run-booted", "nested/run-msb", True, 1.0),
    ("the same, booted, on libkrun as well", "nested/run-krun", "nested/run-msb", True, 1.0),
    ("kelpie exec, against microsandbox's", "nested/exec-kelpie", "nested/exec-msb", True, 1.0),
    ("the same, on libkrun as well", "nested/exec-krun", "nested/exec-msb", True, 1.0),
)

# name, series, what it must not exceed
CEILINGS = (
    ("kelpie exec", "exec/command", None),
    ("kelpie exec, beyond the library", "exec/beyond-library", 5),
    ("kelpie run true, booted", "boot/run", None),
    ("kelpie run true, from a template", "boot/run-template", 200),
    ("pause, booted, 100 MB in use", "snapshot/booted-kelpie", 80),
    ("pause, little changed", "snapshot/small-kelpie", 10),
    ("slowest answer to another client meanwhile", "snapshot/booted-answer", 10),
    ("answers that took more than 10 ms", "snapshot/booted-late", None),
    ("snapshot of an idle guest on disk", "snapshot/idle-stored", 100),
    ("snapshot of one that changed little", "snapshot/small-stored", 5),
    ("restore to first result", "restore/kelpie", None),
    ("fork to the child's first result", "fork/kelpie", 200),
    ("fork with a QEMU waiting", "fork/waiting", 120),
    ("pause of a fork's source", "fork/pause", 10),
    ("claim from a pool to first result", "pool/first", 10),
    ("claim from a pool", "pool/claim", None),
    ("private memory of a clone", "density/clone", 30),
    ("private memory of a monitor", "density/monitor", 2),
)


def quantile(values, part):
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values):
    return quantile(values, 0.5)


def spread(values):
    """How far the middle 80 % lie apart, in parts of the median."""
    middle = median(values)
    return (quantile(values, 0.9) - quantile(values, 0.1)) / middle if middle else 0.0


def ratio(left, right):
    """The ratio of the medians, and the ends of its interval."""
    draw = random.Random(SEED)
    found = []
    for _ in range(BOOTSTRAP_DRAWS):
        above = median(draw.choices(left, k=len(left)))
        below = median(draw.choices(right, k=len(right)))
        found.append(above / below if below else float("inf"))
    low = quantile(found, (1 - CONFIDENCE) / 2)
    high = quantile(found, (1 + CONFIDENCE) / 2)
    return median(left) / median(right), low, high


def compare(left, right):
    """{"ratio", "low", "high", "is_clear", "is_single"}; None where there is nothing to compare."""
    if not left or not right or median(right) == 0:
        return None
    value, low, high = ratio(left, right)
    is_single = len(left) == 1 or len(right) == 1
    is_clear = is_single or not low <= 1 <= high
    return {"ratio": value, "low": low, "high": high, "is_clear": is_clear, "is_single": is_single}


def interval(result):
    """Its ends as text; "" of one value alone, which has none."""
    return "" if result["is_single"] else f"{result['low']:.3f} .. {result['high']:.3f}"


def verdict(result, is_smaller_better, aim):
    if aim is None:
        return ""
    worst, best = (result["high"], result["low"]) if is_smaller_better else (result["low"], result["high"])
    if (worst <= aim) if is_smaller_better else (worst >= aim):
        return "met"
    if (best > aim) if is_smaller_better else (best < aim):
        return "missed"
    return "open"


def series_lines(series):
    yield f"{'series':28} {'unit':6} {'rounds':>6} {'median':>10} {'p10':>10} {'p90':>10} {'spread':>7}"
    for name, entry in series.items():
        values = entry["values"]
        yield (
            f"{name:28} {entry['unit']:6} {len(values):6} {median(values):10.2f} {quantile(values, 0.1):10.2f} "
            f"{quantile(values, 0.9):10.2f} {spread(values):6.0%}"
        )


def values_of(series, name):
    return series[name]["values"] if name in series else []


def prefixes(series):
    """"" and what stands before the sections of a run with other settings: "large-"."""
    found = {""}
    for name in series:
        head = name.split("/")[0]
        found.add(head[: head.index("-") + 1] if "-" in head else "")
    return sorted(found)


def comparison_lines(series):
    yield f"{'ratio':50} {'value':>12} {'95 % interval':>16} {'aim':>8}"
    for prefix in prefixes(series):
        for name, left, right, is_smaller_better, aim in COMPARISONS:
            result = compare(values_of(series, prefix + left), values_of(series, prefix + right))
            if result is None:
                continue
            value = f"{result['ratio']:.3f}" if result["is_clear"] else "none seen"
            limit = "" if aim is None else f"{'<=' if is_smaller_better else '>='} {aim}"
            end = verdict(result, is_smaller_better, aim)
            ends = interval(result) or "one value"
            yield f"{prefix.replace('-', ': ') + name:50} {value:>12} {ends:>16} {limit:>8} {end}"


def ceiling_lines(series):
    yield f"{'value':50} {'median':>12} {'p90':>16} {'aim':>8}"
    for prefix in prefixes(series):
        for name, key, aim in CEILINGS:
            values = values_of(series, prefix + key)
            if not values:
                continue
            unit = series[prefix + key]["unit"]
            limit = f"<= {aim}" if aim is not None and not prefix else ""
            end = "" if not limit else "met" if median(values) <= aim else "missed"
            middle = f"{median(values):.2f} {unit}"
            high = f"{quantile(values, 0.9):.2f} {unit}"
            yield f"{prefix.replace('-', ': ') + name:50} {middle:>12} {high:>16} {limit:>8} {end}"


def table(series):
    return "\n".join([*series_lines(series), "", *comparison_lines(series), "", *ceiling_lines(series)])


# ---- rows for docs/performance.md ------------------------------------------------------------------------------------

# area, the sections whose rows it has
AREAS = (
    ("A boot", ("boot",)),
    ("A command", ("exec", "tail", "parallel", "queue", "peer")),
    ("Streams", ("stream",)),
    ("Snapshot", ("snapshot",)),
    ("Restore", ("restore",)),
    ("Fork", ("fork",)),
    ("Pool", ("pool",)),
    ("Many, and at rest", ("density", "idle")),
    ("KVM", ("nested",)),
)


def number(value):
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def aim_words(limit, end):
    return f"{limit}: {end}" if limit else ""


def markdown_row(cells, when):
    return "| " + " | ".join((*cells, when)) + " |"


def markdown_rows(series, prefix, sections, when):
    shown = set()
    for name, left, right, is_smaller_better, aim in COMPARISONS:
        result = compare(values_of(series, prefix + left), values_of(series, prefix + right))
        if result is None or left.split("/")[0] not in sections:
            continue
        both = (series[prefix + left], series[prefix + right])
        sides = [f"{number(median(entry['values']))} {entry['unit']}" for entry in both]
        limit = "" if aim is None else f"{'≤' if is_smaller_better else '≥'} {aim}"
        between = f"{result['low']:.2f} .. {result['high']:.2f}"
        ends = f"{result['ratio']:.2f}" if result["is_single"] else between
        words = aim_words(limit, verdict(result, is_smaller_better, aim))
        shown.add(left)
        yield markdown_row((name, *sides, ends, words), when)
    for name, key, aim in CEILINGS:
        values = values_of(series, prefix + key)
        if not values or key.split("/")[0] not in sections or (aim is None and key in shown):
            continue
        unit = series[prefix + key]["unit"]
        middle = f"{number(median(values))} {unit} (p90 {number(quantile(values, 0.9))})"
        limit = "" if aim is None or prefix else f"≤ {aim} {unit}"
        end = "met" if limit and median(values) <= aim else "missed"
        yield markdown_row((name, middle, "", "", aim_words(limit, end)), when)


def markdown(series, when):
    """A table for each area; those of a run with other settings, and of KVM, behind them."""
    for prefix in prefixes(series):
        for area, sections in AREAS:
            rows = list(markdown_rows(series, prefix, sections, when))
            if rows:
                yield f"## {prefix.replace('-', ': ')}{area}\n"
                yield "| what | Kelpie | by hand, or another | ratio, 95 % | aim | when, load |"
                yield "| --- | --- | --- | --- | --- | --- |"
                yield "\n".join(rows) + "\n"


# ---- the picture -----------------------------------------------------------------------------------------------------

ROW_HEIGHT = 22
LEFT = 220
WIDTH = 640


def svg_row(name, entry, top, scale):
    values = entry["values"]

    def across(value):
        return LEFT + value / scale * WIDTH

    middle = top + ROW_HEIGHT / 2
    yield f'<text x="8" y="{middle + 4:.0f}">{name}</text>'
    low, high = across(quantile(values, 0.1)), across(quantile(values, 0.9))
    yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" class="range"/>'
    for value in values:
        yield f'<circle cx="{across(value):.1f}" cy="{middle}" r="2.5"/>'
    at = across(median(values))
    yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top + 3}" y2="{top + ROW_HEIGHT - 3}" class="median"/>'
    yield f'<text x="{LEFT + WIDTH + 10}" y="{middle + 4:.0f}">{median(values):.2f} {entry["unit"]}</text>'


def svg(series):
    """Every value of every series, section by section, each from 0 on a scale of its own and its unit's."""
    groups = {}
    for name, entry in series.items():
        groups.setdefault((name.split("/")[0], entry["unit"]), []).append(name)
    body = []
    top = 10
    for (section, unit), names in groups.items():
        scale = max(max(series[name]["values"]) for name in names) or 1
        body.append(f'<text x="8" y="{top + 14}" class="head">{section}, {unit}, 0 to {scale:.4g}</text>')
        top += ROW_HEIGHT
        for name in names:
            body.extend(svg_row(name, series[name], top, scale))
            top += ROW_HEIGHT
        top += 8
    style = (
        "text{font:12px sans-serif}.head{font-weight:bold}circle{fill:#36c;fill-opacity:.45}"
        ".range{stroke:#999;stroke-width:6;stroke-opacity:.35}.median{stroke:#c33;stroke-width:2}"
    )
    width = LEFT + WIDTH + 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}">'
        f"<style>{style}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )
