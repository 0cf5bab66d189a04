"""The fault matrix: its document names the tests that are marked, and results of a run arrive in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_matrix import COLLECTED, MARKED, ROWS
from fault_table import NO_TEST, document, drift, load_groups, named_tests

from armature.provenance import git_commit

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "fault_matrix.md"


def test_the_document_names_exactly_the_tests_that_are_marked(request: pytest.FixtureRequest) -> None:
    """Sees the files of this session, all in a run of all tests. `make fault-matrix` writes the document anew."""
    text = DOCUMENT.read_text()
    files = {name.split("::")[0] for _, name in named_tests(text)}
    assert {file for file in files if not (ROOT / "tests" / file).is_file()} == set()
    found = drift(text, request.config.stash[COLLECTED], request.config.stash[MARKED])
    assert found == {"not in the document": set(), "not marked any more": set()}


def test_what_is_named_and_not_marked_or_marked_and_not_named_is_found() -> None:
    entry = {"outcome": "passed", "figures": []}
    text = document(
        {"tests/test_a.py::test_x": entry | {"rows": [3]}, "tests/test_b.py::test_y": entry | {"rows": [4]}}
    )
    x, y = (3, "test_a.py::test_x"), (4, "test_b.py::test_y")
    new, moved = (8, "test_a.py::test_z"), (5, "test_a.py::test_x")
    assert drift(text, {"test_a.py"}, {x, new}) == {"not in the document": {new}, "not marked any more": set()}
    assert drift(text, {"test_a.py", "test_b.py"}, {x}) == {"not in the document": set(), "not marked any more": {y}}
    assert drift(text, {"test_a.py"}, {moved}) == {"not in the document": {moved}, "not marked any more": {x}}
    assert drift(text, {"test_c.py"}, set()) == {"not in the document": set(), "not marked any more": set()}


def test_the_document_says_what_every_row_asks_for_and_that_no_test_failed() -> None:
    text = DOCUMENT.read_text()
    assert [number for group in load_groups() for number in group["rows"]] == list(ROWS)
    for group in load_groups():
        assert f"## {group['letter']}. {group['title']}" in text
        for number, row in group["rows"].items():
            assert f"| {number} | {row['fault']} | {row['required']} |" in text
    assert "failed**" not in text
    assert len(named_tests(text)) > 100


SAMPLE = """
import pytest

@pytest.mark.fault(row=3)
@pytest.mark.parametrize("n", [1, 2])
def test_both(n, record_property):
    record_property("figure", f"{n}0 ms")

@pytest.mark.fault(row=3)
@pytest.mark.fault(row=58)
def test_broken():
    assert False

@pytest.mark.fault(row=5)
def test_skipped():
    pytest.skip("not here")

@pytest.fixture
def broken():
    yield
    assert False

@pytest.mark.fault(row=6)
def test_broken_afterwards(broken):
    pass

def test_of_nothing():
    pass
"""


def run_sample(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests of their own with the plugin."""
    tests = folder / "tests"
    tests.mkdir(exist_ok=True)
    (tests / "test_sample.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    fault(row): one\n")
    command = [sys.executable, "-m", "pytest", "-p", "fault_matrix", "--rootdir", ".", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def cases_in(results: Path) -> dict[str, dict]:
    """Return the results of a run by node id."""
    told = json.loads(results.read_text())
    assert told["commit"] == git_commit()
    return told["cases"]


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "side by side"])
def test_results_and_figures_of_a_run_arrive_in_the_document(tmp_path: Path, workers: tuple[str, ...]) -> None:
    results = tmp_path / "build" / "results.json"
    done = run_sample(tmp_path, SAMPLE, f"--fault-matrix={results}", *workers)
    assert done.returncode == 1, done.stdout
    found = cases_in(results)
    assert len(found) == 5
    text = document(found)
    both = "`test_sample.py::test_both` (2 cases)<br>`test_sample.py::test_broken`"
    assert f"| {both} | passed, **1 failed** | 10 ms<br>20 ms |" in text
    assert "| `test_sample.py::test_skipped` | skipped |  |" in text
    assert "| `test_sample.py::test_broken_afterwards` | **1 failed** |  |" in text
    assert text.count(f"| {NO_TEST} |") == 58 - 4
    assert "4 of 58 rows have tests; 5 cases in this run" in text
    names = {
        (3, "test_both"),
        (3, "test_broken"),
        (58, "test_broken"),
        (5, "test_skipped"),
        (6, "test_broken_afterwards"),
    }
    assert named_tests(text) == {(row, f"test_sample.py::{name}") for row, name in names}


def test_a_second_run_adds_to_the_results_of_the_first(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    run_sample(tmp_path, SAMPLE, f"--fault-matrix={results}", "-k", "both or broken")
    mended = SAMPLE.replace("def test_broken():\n    assert False", "def test_broken():\n    pass")
    run_sample(tmp_path, mended, f"--fault-matrix={results}", "-k", "test_broken and not afterwards")
    found = {node.split("::")[1]: entry["outcome"] for node, entry in cases_in(results).items()}
    assert found == {
        "test_both[1]": "passed",
        "test_both[2]": "passed",
        "test_broken": "passed",
        "test_broken_afterwards": "failed",
    }


def test_what_is_not_there_any_more_is_dropped_and_what_is_of_another_commit(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    run_sample(tmp_path, SAMPLE, f"--fault-matrix={results}")
    (tmp_path / "tests" / "test_other.py").write_text(SAMPLE)
    fewer = SAMPLE.replace("[1, 2]", "[1]")
    run_sample(tmp_path, fewer, f"--fault-matrix={results}", "-k", "broken")
    (tmp_path / "tests" / "test_other.py").unlink()
    run_sample(tmp_path, fewer, f"--fault-matrix={results}", "tests/test_sample.py::test_skipped")
    names = {node.removeprefix("tests/test_sample.py::") for node in cases_in(results)}
    assert names == {"test_both[1]", "test_broken", "test_skipped", "test_broken_afterwards"}
    results.write_text(json.dumps({"commit": "another", "cases": cases_in(results)}))
    run_sample(tmp_path, SAMPLE, f"--fault-matrix={results}", "-k", "skipped")
    assert list(cases_in(results)) == ["tests/test_sample.py::test_skipped"]


DEADLY = """
import os
import pytest

@pytest.mark.fault(row=3)
def test_dies():
    os._exit(1)

@pytest.mark.fault(row=3)
def test_lives():
    pass

@pytest.fixture
def deadly():
    os._exit(1)

@pytest.mark.fault(row=4)
def test_never_begins(deadly):
    pass
"""


def test_a_test_that_kills_its_worker_has_failed(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run_sample(tmp_path, DEADLY, f"--fault-matrix={results}", "-p", "xdist", "-n", "1")
    assert done.returncode != 0
    outcomes = {node.split("::")[1]: entry["outcome"] for node, entry in cases_in(results).items()}
    assert outcomes == {"test_dies": "failed", "test_lives": "passed", "test_never_begins": "failed"}


@pytest.mark.parametrize("mark", ["fault()", "fault(3)", "fault(row=59)", "fault(row=3, more=1)"])
def test_a_mark_that_names_no_row_ends_the_run(tmp_path: Path, mark: str) -> None:
    source = f"import pytest\n\n@pytest.mark.{mark}\ndef test_any():\n    pass\n"
    done = run_sample(tmp_path, source)
    assert done.returncode == 4
    assert "expected row=1 to row=58" in done.stderr
