"""Row 38: nothing in the sources can run code that a file or a message brings along."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("armature", "policies", "sim", "data_collection", "ros_ws", "launch", "benchmarks")
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"),
    *("pandas.read_pickle", "os.system", "os.popen"),
}
NUMPY = {"np.load", "numpy.load"}


def faults(source: str) -> list[str]:
    """List what a source does that runs, or may run, what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"from {node.module}")
        elif isinstance(node, ast.Call):
            found += _faults_of_call(node)
    return found


def _faults_of_call(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = [name] if name in CALLS | BUILTINS else []
    if name in NUMPY and given.get("allow_pickle") != "False":
        found.append(f"{name} that does not say allow_pickle=False")
    if given.get("allow_pickle") == "True" or given.get("trust_remote_code") == "True":
        found.append(f"{name} that runs what it reads")
    if given.get("shell") == "True":
        found.append(f"{name} through a shell")
    return found


@pytest.mark.fault(row=38)
def test_no_source_can_run_what_it_reads() -> None:
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(sources) > 150
    assert {str(path.relative_to(ROOT)): faults(path.read_text()) for path in sources if faults(path.read_text())} == {}


@pytest.mark.fault(row=38)
@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(path, weights_only=True)",
        "eval(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_is_forbidden_is_found(source: str) -> None:
    assert faults(source)


@pytest.mark.fault(row=38)
@pytest.mark.parametrize("source", ["model.eval()", "np.load(path, allow_pickle=False)", "re.compile(text)"])
def test_what_is_allowed_is_not_found(source: str) -> None:
    assert faults(source) == []
