"""Pytest plugin: which tests cover which rows of the fault matrix, how they ended, and what they measured.

`@pytest.mark.fault(row=12)` says what a test covers, `record_property("figure", "41 ms")` what it measured. With
`--fault-matrix=FILE` the results of a run are added to a JSON file, to those of the same commit whose tests are still
there; `fault_table.py` makes the document of it. A case that was collected and did not pass has failed, also where
nothing is heard of it any more, because its process died.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from armature.provenance import git_commit

ROW, FIGURE = "fault_row", "figure"
CASES, FILES, NODES = "fault_cases", "fault_files", "fault_nodes"
"""What a worker tells: rows of the cases to run by node id, the files that were read, all marked cases in them."""
ROWS = range(1, 59)
COLLECTED = pytest.StashKey[set[str]]()
"""All test files of the session, whatever is selected of them."""
MARKED = pytest.StashKey[set[tuple[int, str]]]()
"""Row and function of all tests in them that are marked."""
MARKED_NODES = pytest.StashKey[set[str]]()
"""Node ids of all their cases."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    text = "add the results of the tests that cover rows of the fault matrix to this JSON file"
    parser.addoption("--fault-matrix", type=Path, metavar="FILE", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Collect results in the process that sees all reports, not in the workers of pytest-xdist."""
    path = config.getoption("--fault-matrix")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(path, config.rootpath))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Write each test's rows into its properties, which travel with its reports; before anything is deselected."""
    config.stash[COLLECTED] = {function_of(item.nodeid).split("::")[0] for item in items}
    config.stash[MARKED], config.stash[MARKED_NODES] = set(), set()
    for item in items:
        for mark in item.iter_markers("fault"):
            row = mark.kwargs.get("row")
            if mark.args or set(mark.kwargs) != {"row"} or row not in ROWS:
                raise pytest.UsageError(f"{item.nodeid}: fault{mark.args or mark.kwargs}, expected row=1 to row=58")
            item.user_properties.append((ROW, row))
            config.stash[MARKED].add((row, function_of(item.nodeid)))
            config.stash[MARKED_NODES].add(item.nodeid)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell, from a worker, the process that sees all reports what there is to run."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput |= collected(session)


def collected(session: pytest.Session) -> dict[str, Any]:
    """Return the marked cases to run with their rows, and the files of which all tests were looked at."""
    cases = {item.nodeid: rows for item in session.items if (rows := rows_of(item.user_properties))}
    config = session.config
    # Where one test is named on the command line, the others of its file are not looked at.
    whole = set() if any("::" in arg for arg in config.args) else config.stash[COLLECTED]
    return {CASES: cases, FILES: sorted(whole), NODES: sorted(config.stash[MARKED_NODES])}


def rows_of(properties: list[tuple[str, Any]]) -> list[int]:
    """Return the rows among the properties of a test."""
    return sorted(value for name, value in properties if name == ROW)


def function_of(node: str) -> str:
    """Return file and function of a node id, relative to tests/."""
    return node.split("[", 1)[0].removeprefix("tests/")


class Results:
    """What the reports say of the tests that cover a row, by node id."""

    def __init__(self, path: Path, root: Path) -> None:
        self._path, self._root = path, root
        self._commit = git_commit()
        self._found: dict[str, dict] = {}
        self._files: set[str] = set()
        self._nodes: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take note of what there is to run, where this process runs it."""
        self._expect(collected(session))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take note of what a worker was to run."""
        self._expect(getattr(node, "workeroutput", {}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the report of one phase of a test: it has passed once its call has, unless what follows fails."""
        rows = rows_of(report.user_properties)
        if not rows:
            return
        entry = self._entry(report.nodeid, rows)
        entry["figures"] = [str(value) for name, value in report.user_properties if name == FIGURE]
        if report.failed or report.when == "call" or (report.skipped and report.when == "setup"):
            entry["outcome"] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Add the results to what the file holds from earlier runs."""
        before = json.loads(self._path.read_text()) if self._path.exists() else {}
        kept = before["cases"] if before.get("commit") == self._commit else {}
        cases = {node: entry for node, entry in kept.items() if self._is_there(node)} | self._found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"commit": self._commit, "cases": cases}, indent=1, sort_keys=True) + "\n")

    def _expect(self, told: dict[str, Any]) -> None:
        for node, rows in told.get(CASES, {}).items():
            self._entry(node, rows)
        self._files |= set(told.get(FILES, ()))
        self._nodes |= set(told.get(NODES, ()))

    def _entry(self, node: str, rows: list[int]) -> dict[str, Any]:
        """Return the entry of a case; until it has passed it counts as failed."""
        return self._found.setdefault(node, {"outcome": "failed", "rows": rows, "figures": []})

    def _is_there(self, node: str) -> bool:
        """Tell whether a case of an earlier run still exists, as far as this run has looked."""
        is_file = (self._root / node.split("::")[0]).is_file()
        return is_file and (function_of(node).split("::")[0] not in self._files or node in self._nodes)
