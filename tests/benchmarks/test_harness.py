"""The exit code of a benchmark and the file that it leaves, however it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import Arguments, Criterion, at_least, main

from armature.provenance import git_commit

MET, MISSED = at_least("enough", 2.0, "", 1.0), at_least("enough", float("nan"), "", 1.0)


def told(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize(
    ("criteria", "reports_only", "code"),
    [([MET], False, 0), ([MET, MISSED], False, 1), ([], False, 1), ([], True, 0), ([MISSED], True, 1)],
)
def test_only_criteria_that_are_met_make_a_success(
    criteria: list[Criterion], reports_only: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("any", lambda _: (criteria, {}), Arguments(), reports_only=reports_only) == code
    is_said = "no criterion was asked for by these arguments" in capsys.readouterr().out
    assert is_said == (not criteria and not reports_only)


def test_the_file_is_there_from_the_start_and_holds_the_result_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.json"

    def measure(quick: bool) -> tuple[list[Criterion], dict[str, Any]]:
        begun = told(file)
        assert (begun["name"], begun["commit"], begun["criteria"]) == ("any", git_commit(), [])
        assert begun["details"] == {"unfinished": True}
        return [MISSED], {"quick?": quick, "values": (1.0, float("inf"), {"deep": float("nan")})}

    assert main("any", measure, Arguments(file, quick=True)) == 1
    found = told(file)
    assert found["criteria"][0]["value"] is None
    assert found["criteria"][0]["ok"] is False
    assert found["details"]["values"] == [1.0, None, {"deep": None}]
    assert found["details"]["quick?"] is found["details"]["quick"] is True
    assert "unfinished" not in found["details"]
    assert [each.name for each in file.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("error", [RuntimeError("the arm is gone"), KeyboardInterrupt()])
def test_what_ended_it_stands_in_the_file(tmp_path: Path, error: BaseException) -> None:
    def measure(quick: bool) -> Any:
        raise error

    with pytest.raises(type(error)):
        main("any", measure, Arguments(tmp_path / "result.json"))
    found = told(tmp_path / "result.json")["details"]
    assert found == {"unfinished": True, "error": f"{type(error).__name__}: {error}"}


@pytest.mark.parametrize("place", ["", "file/result.json"], ids=["a folder", "below a file"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main("any", lambda _: pytest.fail("was measured"), Arguments(tmp_path / place)) == 2
    assert "benchmarks/any.py: --json: " in capsys.readouterr().err
