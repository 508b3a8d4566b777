"""What was shown, as a table: printed when the tests have run, and written as JSON into `build/`.

A test says what it shows with `@pytest.mark.shows(SECTION, ROW)`; SECTION is `scenarios`, `A1` to `A7` or `matrix`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance.rows import BEHAVIOURS, MATRIX, SCENARIOS, SECTIONS

PROPERTY: Final = "shows"  # also the name of the mark
WRITTEN: Final = Path("build", "conformance.json")
VARIANT_OF: Final = {"GRPC": "sotw ADS", "DELTA_GRPC": "delta ADS"}
"""What Envoy's bootstrap calls them."""

COLUMNS: Final = ("sotw by type", "sotw ADS", "delta by type", "delta ADS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every report of a test say what the test shows; reports cross from one process to another, marks do not."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        variant = str(params.get("variant") or VARIANT_OF.get(str(params.get("start")), ""))
        for mark in item.iter_markers("shows"):
            section, row = mark.args
            if str(row) not in rows_of(section):
                raise pytest.UsageError(f"{item.nodeid}: {section} has no row '{row}' in tests/conformance/rows.py")
            item.user_properties.append((PROPERTY, json.dumps([section, str(row), variant])))
            if item.config.rootpath / "tests" / "envoy" in item.path.parents:
                item.add_marker(pytest.mark.xdist_group("envoy"))  # one real Envoy at a time: some are timed


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table where it is asked for: `-m shows`."""
    results = _results(terminalreporter.stats)
    if not results or config.getoption("markexpr") != PROPERTY:
        return
    rows = [_row(section, row, what, results) for section, row, what in _known(results)]
    path = config.rootpath / WRITTEN
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for section, title in SECTIONS.items():
        if any(row["section"] == section for row in rows):
            terminalreporter.section(title, sep="-")
            _print(terminalreporter, [row for row in rows if row["section"] == section], section)
    passed, failed = (sum(row[key] for row in rows) for key in ("passed", "failed"))
    runs = sum(row["passed"] for row in rows if row["section"] == "scenarios")
    terminalreporter.write_line(
        f"conformance: {runs} runs of {len(SCENARIOS)} scenarios; {passed} passed, {failed} failed; in {WRITTEN}"
    )


Results = dict[tuple[str, str], Counter[tuple[str, str]]]
"""By section and row: how often which outcome, by variant."""


def _results(stats: dict[str, list[Any]]) -> Results:
    found: Results = {}
    for outcome, reports in stats.items():
        if outcome not in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
            continue
        for report in reports:
            for name, said in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    section, row, variant = json.loads(said)
                    word = outcome if outcome in ("passed", "skipped") else "failed"
                    found.setdefault((section, row), Counter())[variant, word] += 1
    return found


def rows_of(section: str) -> dict[str, str]:
    """The rows of a section in order, and what each says."""
    if section == "scenarios":
        return {str(n): what for n, what in SCENARIOS.items()}
    if section == "matrix":
        return {str(n): what for n, what in MATRIX.items()}
    return {what: what for what in BEHAVIOURS[section]}


def _known(results: Results) -> Iterator[tuple[str, str, str]]:
    """Every row, in order, of the sections that have run."""
    ran = {section for section, _ in results}
    for section in SECTIONS:
        if section in ran:
            yield from ((section, row, what) for row, what in rows_of(section).items())


def _row(section: str, row: str, what: str, results: Results) -> dict[str, Any]:
    counts = results.get((section, row), Counter())
    by_variant: dict[str, str] = {}
    for variant in dict.fromkeys(variant for variant, _ in counts):
        passed, failed = counts[variant, "passed"], counts[variant, "failed"]
        by_variant[variant] = f"{passed}/{passed + failed}" if passed + failed else "skipped"
    totals = {word: sum(n for (_, of), n in counts.items() if of == word) for word in ("passed", "failed", "skipped")}
    return {"section": section, "row": row, "what": what, "variants": by_variant, **totals}


def _print(reporter: Any, rows: list[dict[str, Any]], section: str) -> None:
    reporter.write_line(" " * 76 + "".join(f"{name:>15}" for name in COLUMNS) + f"{'other':>9}")
    ran = [row for row in rows if row["passed"] + row["failed"] + row["skipped"]]
    for row in ran:
        number = "" if row["row"] == row["what"] else row["row"]
        cells = [row["variants"].get(name, "-") for name in COLUMNS] + [row["variants"].get("", "-")]
        ok = row["failed"] == 0 and row["passed"] > 0
        words = f"{number:>2} {row['what']}"[:75]
        line = f"{words:76}" + "".join(f"{cell:>15}" for cell in cells[:4]) + f"{cells[4]:>9}"
        reporter.write_line(line, red=not ok)
    if len(ran) < len(rows):
        reporter.write_line(f"not run: {'; '.join(row['row'] for row in rows if row not in ran)}")
