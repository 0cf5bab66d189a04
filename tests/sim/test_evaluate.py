"""`armature eval` from the command line: result, exit codes, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armature.cli import main
from policies.checkpoint import load_policy, save_checkpoint
from sim.evaluate import require_task_of

EMBEDDED = Path(__file__).parents[2] / "policies" / "pretrained" / "lift_pixels"


def test_expert_evaluation_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "result.json"
    code = main(["eval", "--expert", "--episodes", "2", "--seed", "7", "--json", str(file), "--success-min", "0.9"])
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert code == 0
    assert report["policy_id"] == "expert/lift"
    assert report["seeds"] == [7, 8]
    assert (report["task"], report["robot"], report["action"]) == ("lift", "panda", "joint_position")
    assert (report["horizon_steps"], report["render_profile"]) == (200, None)
    assert not {"checkpoint", "engine"} & set(report)
    assert "expert/lift on lift" in printed
    assert (report["success"]["k"], report["success"]["n"]) == (2, 2)
    assert report["success"]["low"] == pytest.approx(0.3424, abs=1e-4)
    assert set(report["interventions"]) == {"acceleration_limit"}
    assert [episode["seed"] for episode in report["episodes"]] == [7, 8]
    assert "success 2/2 (95 % interval 0.342 to 1.000)" in printed


def test_too_few_successes_exit_with_one(tmp_path: Path) -> None:
    assert main(["eval", "--expert", "--episodes", "1", "--horizon-steps", "3", "--success-min", "0.5"]) == 1


def test_a_report_of_a_checkpoint_says_which_and_how_it_was_run(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--checkpoint", str(EMBEDDED), "--episodes", "1", "--horizon-steps", "2", "--render-profile", "fast"]
    assert main(["eval", *arguments, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["checkpoint"], report["engine"]) == (str(EMBEDDED), "eager")
    assert (report["horizon_steps"], report["render_profile"]) == (2, "fast")


def test_what_cannot_be_written_after_all_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    arguments = ["--expert", "--episodes", "1", "--horizon-steps", "2", "--json", str(tmp_path / "result.json")]
    assert main(["eval", *arguments]) == 2
    output = capsys.readouterr()
    assert "success 0/1" in output.out
    assert "result.json cannot be written: No space left on device" in output.err


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_checkpoint(tmp_path / "can", load_policy(EMBEDDED), {"training": {"task": "can"}})
    assert main(["eval", "--checkpoint", str(path)]) == 2
    assert f"task 'lift': {path} was trained on 'can'; say --task can" in capsys.readouterr().err
    require_task_of(path, "can")
    require_task_of(EMBEDDED, "can")
    require_task_of(save_checkpoint(tmp_path / "own", load_policy(EMBEDDED), {"training": {"task": "tidy up"}}), "can")


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
        (["--expert", "--engine", "auto"], "engine 'auto': the scripted expert takes none"),
        (["--expert", "--device", "cuda"], "device 'cuda': the scripted expert takes none"),
        (["--expert", "--render-profile", "full"], "render_profile 'full': the scripted expert takes none"),
        (["--expert", "--success-min", "90"], "success_min: 90.0, must lie in 0 to 1"),
        (["--expert", "--success-min", "nan"], "success_min: nan, must lie in 0 to 1"),
        (["--expert", "--json", "/"], "json: / is a folder"),
        (["--expert", "--json", "/dev/null/x.json"], "/dev/null is no folder"),
        (["--checkpoint", str(EMBEDDED), "--robot", "ur5e"], "robot 'ur5e': the checkpoint brings its own, 'panda'"),
        (["--checkpoint", str(EMBEDDED), "--action", "tcp_delta"], "brings its own, 'joint_position'"),
        (["--checkpoint", str(EMBEDDED), "--prompt", "lift it"], "takes no prompt, got 'lift it'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
