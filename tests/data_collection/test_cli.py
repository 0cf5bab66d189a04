from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from armature.cli import main
from armature.spec import RobotSpec
from data_collection.recorder import Recorder
from data_collection.store import create_dataset
from data_collection.streams import ACTION_EXECUTED

COMMANDS_LISTED = "audit, drop, export, import, info, merge, migrate, plot, relabel, repair, split"


def test_info_tells_what_a_dataset_holds(
    tmp_path: Path, robot: RobotSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    dataset = create_dataset(tmp_path / "set", robot, "lift")
    with Recorder(dataset) as recorder:
        for success in (True, True, False):
            recorder.start({})
            for k in (0, 2, 2):
                recorder.add(ACTION_EXECUTED, k * 50_000_000, k, np.zeros(3))
            recorder.end(success)
    assert main(["data", "info", str(dataset.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[0]: cells[1:] for line in lines if len(cells := [c.strip() for c in line.strip("│").split("│")]) > 1}
    assert rows["episodes"] == ["3, 1 failure, 2 success"]
    assert rows["steps"] == ["6 in 0.3 s"]
    assert rows["fingerprint"] == [dataset.fingerprint]
    assert rows[ACTION_EXECUTED] == ["float64 3", "per part", "6", "10.0", "3 repeated"]
    assert rows["camera/scene"] == ["uint8 24x32x3", "rgb8", "0", "-", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "/absent"], "armature: /absent: there is no dataset here. Valid beside it: (none)"),
        (["inof", "x"], "armature: unknown data command 'inof'. Did you mean 'info'? Valid: " + COMMANDS_LISTED),
        ([], "armature: unknown data command ''. Valid: " + COMMANDS_LISTED),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *arguments]) == 2
    assert capsys.readouterr().err == message + "\n"
