"""The fault matrix as a document, made from the results of a run and from what every row asks for.

python tests/fault_table.py RESULTS.json docs/fault_matrix.md
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fault_matrix import function_of

ROWS_FILE = Path(__file__).parent / "faults" / "rows.yaml"
HEAD = """# Fault matrix

What can go wrong between a learned policy and an arm, what has to happen then, and the tests that show it. Made by
`make fault-matrix` from a run of these tests; a test of its own keeps the names below equal to those that are marked
with `@pytest.mark.fault(row=N)`. Names are relative to `tests/`.

HOLD: the arm comes to rest along its path and goes on by itself. LATCH: it comes to rest and must be armed anew.
"""
NO_TEST = "no test"


@dataclass
class TestResult:
    """What is known of all cases of one test function."""

    outcomes: Counter[str] = field(default_factory=Counter)
    figures: list[str] = field(default_factory=list)

    def result(self) -> str:
        """Word the outcome; one failure counts more than any number of passes."""
        if self.outcomes["failed"]:
            return f"**{self.outcomes['failed']} failed**"
        skipped = self.outcomes["skipped"]
        return "passed" if not skipped else "skipped" if not self.outcomes["passed"] else f"passed, {skipped} skipped"


def by_row(results: dict[str, dict[str, Any]]) -> dict[int, dict[str, TestResult]]:
    """Group the cases of a run by row and test function."""
    found: dict[int, dict[str, TestResult]] = {}
    for node, entry in sorted(results.items()):
        for row in entry["rows"]:
            test = found.setdefault(row, {}).setdefault(function_of(node), TestResult())
            test.outcomes[entry["outcome"]] += 1
            test.figures += [figure for figure in entry["figures"] if figure not in test.figures]
    return found


def document(results: dict[str, dict[str, Any]]) -> str:
    """Return the document."""
    found = by_row(results)
    groups = load_groups()
    rows = [number for group in groups for number in group["rows"]]
    covered = sum(number in found for number in rows)
    parts = [HEAD, f"{covered} of {len(rows)} rows have tests; {len(results)} cases in this run.\n"]
    for group in groups:
        parts.append(f"## {group['letter']}. {group['title']}\n")
        parts.append("| # | Fault | What has to happen | Tests | Result | Measured |\n|---|---|---|---|---|---|")
        parts += [_line(number, row, found.get(number, {})) for number, row in group["rows"].items()]
        parts.append("")
    return "\n".join(parts)


def load_groups() -> list[dict[str, Any]]:
    """Return the groups of rows, each with `letter`, `title` and `rows` by number."""
    return yaml.safe_load(ROWS_FILE.read_text())


def named_tests(text: str) -> set[tuple[int, str]]:
    """Return row and name of every test that a document names; inverse of `document`."""
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    return {
        (int(cells[0][2:]), entry.split("`")[1]) for cells in rows for entry in cells[3].split("<br>") if "`" in entry
    }


def drift(text: str, collected: set[str], marked: set[tuple[int, str]]) -> dict[str, set[tuple[int, str]]]:
    """Compare what a document names with what is `marked` in the files that were `collected`."""
    named = {(row, name) for row, name in named_tests(text) if name.split("::")[0] in collected}
    return {"not in the document": marked - named, "not marked any more": named - marked}


def _line(number: int, row: dict[str, str], tests: dict[str, TestResult]) -> str:
    names = [f"`{name}`{_cases(test)}" for name, test in tests.items()]
    results = dict.fromkeys(test.result() for test in tests.values())
    figures = [figure for test in tests.values() for figure in test.figures]
    cells = (row["fault"], row["required"], "<br>".join(names) or NO_TEST, ", ".join(results), "<br>".join(figures))
    return f"| {number} | {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def _cases(test: TestResult) -> str:
    return f" ({test.outcomes.total()} cases)" if test.outcomes.total() > 1 else ""


def main(results: str, out: str) -> None:
    """Write the document."""
    Path(out).write_text(document(json.loads(Path(results).read_text())["cases"]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
