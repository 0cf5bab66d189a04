"""`armature eval` from the command line: result, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armature.cli import main

EMBEDDED = Path(__file__).parents[2] / "policies" / "pretrained" / "lift_pixels"


def test_expert_evaluation_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "result.json"
    code = main(["eval", "--expert", "--episodes", "2", "--seed", "7", "--json", str(file), "--success-min", "0.9"])
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert code == 0
    assert report["policy_id"] == "expert/lift"
    assert report["seeds"] == [7, 8]
    assert (report["success"]["k"], report["success"]["n"]) == (2, 2)
    assert report["success"]["low"] == pytest.approx(0.3424, abs=1e-4)
    assert set(report["interventions"]) == {"acceleration_limit"}
    assert [episode["seed"] for episode in report["episodes"]] == [7, 8]
    assert "success 2/2 (95 % interval 0.342 to 1.000)" in printed


def test_too_few_successes_exit_with_one(tmp_path: Path) -> None:
    assert main(["eval", "--expert", "--episodes", "1", "--horizon-steps", "3", "--success-min", "0.5"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --checkpoint PATH or --expert"),
        (["--expert", "--checkpoint", "x"], "either --checkpoint PATH or --expert"),
        (["--expert", "--task", "stack"], "unknown task 'stack'"),
        (["--expert", "--episodes", "0"], "episodes: 0"),
        (["--expert", "--seed", "-1"], "seed: -1"),
        (["--checkpoint", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--expert", "--prompt", "lift it"], "prompt 'lift it': the scripted expert takes none"),
        (["--checkpoint", str(EMBEDDED), "--prompt", "lift it"], "takes no prompt, got 'lift it'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
