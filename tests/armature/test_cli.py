from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from armature import cli

ROOT = Path(__file__).resolve().parents[2]

VERB_MODULE = """
from armature.errors import CheckpointError

def main(argv):
    if argv == ["interrupt"]:
        raise KeyboardInterrupt
    if argv == ["mistake"]:
        raise CheckpointError("no checkpoint\\n at 'x'")
    return len(argv)
"""


@pytest.fixture
def verb(tmp_path, monkeypatch):
    """Install a verb from a module on disk, so that the lazy import is the real one."""
    (tmp_path / "a_verb_module.py").write_text(VERB_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.VERBS, "verb", "a_verb_module:main")


@pytest.mark.usefixtures("verb")
def test_a_verb_gets_the_remaining_arguments_and_gives_the_exit_code():
    assert cli.main(["verb", "--a", "b", "c"]) == 3


@pytest.mark.usefixtures("verb")
def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    assert cli.main(["verb", "mistake"]) == 2
    assert capsys.readouterr().err == "armature: no checkpoint at 'x'\n"


@pytest.mark.usefixtures("verb")
def test_control_c_is_exit_code_130():
    assert cli.main(["verb", "interrupt"]) == 130


def test_a_module_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(cli.VERBS, "verb", "module_that_is_nowhere:main")
    assert cli.main(["verb"]) == 2
    assert "needs the module 'module_that_is_nowhere', which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_usage_lists_the_verbs(arguments, code, capsys):
    assert cli.main(arguments) == code
    printed = capsys.readouterr()
    assert (
        "armature {demo,up,doctor,eval,collect,train,train-residual,train-dsrl,sampler,export,data,replay,flight}"
        in printed.out + printed.err
    )


def test_an_unknown_verb_names_the_valid_ones_in_a_real_process():
    result = subprocess.run(
        [sys.executable, "-m", "armature.cli", "dmo"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 2
    assert (
        result.stderr == "armature: unknown verb 'dmo'. Did you mean 'demo'? "
        "Valid: collect, data, demo, doctor, eval, export, flight, replay, sampler, train, train-dsrl, "
        "train-residual, up\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"]])
def test_a_reader_that_goes_away_is_no_traceback(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "armature.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
