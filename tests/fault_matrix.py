"""Pytest plugin: which tests cover which rows of the fault matrix, how they ended, and what they measured.

`@pytest.mark.fault(row=12)` says what a test covers, `record_property("figure", "41 ms")` what it measured. With
`--fault-matrix=FILE` the results of a run are added to a JSON file; `fault_table.py` makes the document of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROW, FIGURE = "fault_row", "figure"
ROWS = range(1, 59)
COLLECTED = pytest.StashKey[set[str]]()
"""All test files of the session, whatever is selected of them."""
MARKED = pytest.StashKey[set[tuple[int, str]]]()
"""Row and function of all tests in them that are marked."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    text = "add the results of the tests that cover rows of the fault matrix to this JSON file"
    parser.addoption("--fault-matrix", type=Path, metavar="FILE", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Collect results in the process that sees all reports, not in the workers of pytest-xdist."""
    path = config.getoption("--fault-matrix")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(path))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Write each test's rows into its properties, which travel with its reports; before anything is deselected."""
    config.stash[COLLECTED] = {function_of(item.nodeid).split("::")[0] for item in items}
    config.stash[MARKED] = set()
    for item in items:
        for mark in item.iter_markers("fault"):
            row = mark.kwargs.get("row")
            if mark.args or set(mark.kwargs) != {"row"} or row not in ROWS:
                raise pytest.UsageError(f"{item.nodeid}: fault{mark.args or mark.kwargs}, expected row=1 to row=58")
            item.user_properties.append((ROW, row))
            config.stash[MARKED].add((row, function_of(item.nodeid)))


def function_of(node: str) -> str:
    """Return file and function of a node id, relative to tests/."""
    return node.split("[", 1)[0].removeprefix("tests/")


class Results:
    """What the reports say of the tests that cover a row, by node id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, dict] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the report of one phase of a test; the worst outcome of them counts."""
        rows = [value for name, value in report.user_properties if name == ROW]
        if not rows:
            return
        entry = self._found.setdefault(report.nodeid, {"outcome": "passed"})
        entry["rows"] = sorted(rows)
        entry["figures"] = [str(value) for name, value in report.user_properties if name == FIGURE]
        if report.failed or (report.skipped and entry["outcome"] == "passed"):
            entry["outcome"] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Add the results to what the file holds from earlier runs."""
        before = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(before | self._found, indent=1, sort_keys=True) + "\n")
