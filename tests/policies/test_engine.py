"""Engines give the chunks of eager, or are refused with the reason."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from armature.errors import CheckpointError, ConfigError, InvalidValue
from armature.testing import check_policy, random_observation
from policies import openvino_runtime
from policies.checkpoint import load_policy, read_document, save_checkpoint
from policies.engine import ENGINES, PARITY_N, GraphEngine, make_engine, require_parity
from policies.engine_file import DOCUMENT, ENGINE
from policies.export import export_engine, main
from policies.method import Sampled
from policies.presets.catalog import PRESETS
from policies.registry import METHODS
from policies.sampling_graph import Signature, example_inputs, trace_sampling
from policies.train import train

EMBEDDED = Path(__file__).parents[2] / "policies" / "pretrained" / "lift_pixels"

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino, the extra `engine`, is not installed"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
every_family = pytest.mark.parametrize("family", METHODS)


def chunks_of(policy, seed: int = 3):
    """Return an episode of two chunks, the second of another observation."""
    rng = np.random.default_rng(0)
    policy.reset(seed)
    return [policy.infer(random_observation(policy.spec, policy.obs_steps, rng, 0)) for _ in range(2)]


def difference_n(policy, chunks, others) -> float:
    pairs = zip(chunks, others, strict=True)
    apart = np.stack([a.actions - b.actions for a, b in pairs]) * policy.action_layer.scale.numpy()
    return float(np.abs(apart).max())


@pytest.fixture(scope="session")
def exported(tmp_path_factory, new_policy):
    """Return a function that exports a family's tiny policy, each once: exported(family) -> path."""
    made: dict[str, Path] = {}

    def export(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp(family) / "checkpoint"
            export_engine(save_checkpoint(path, new_policy(family), {}))
            made[family] = path
        return made[family]

    return export


@pytest.fixture
def engine_folder(exported, tmp_path):
    """Return a checkpoint with its engine, to be spoilt."""
    return Path(shutil.copytree(exported("bc"), tmp_path / "checkpoint"))


@every_family
def test_the_graph_of_a_family_gives_its_chunks(new_policy, family):
    policy = new_policy(family)
    graph = trace_sampling(policy)
    values, noise = example_inputs(policy, seed=1)
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(2)) for shape in graph.signature.draws]
    expected = policy.sample(values, noise, torch.Generator().manual_seed(2))
    actions, *figures = graph.module(*values.values(), noise, *draws)
    torch.testing.assert_close(actions, expected.actions, rtol=0, atol=1e-5)
    for found, figure in zip(figures, expected.diagnostics.values(), strict=True):
        torch.testing.assert_close(found, figure, rtol=1e-4, atol=1e-5)


def test_a_graph_changes_nothing_in_place(new_policy):
    def written(noise, generator):
        seen = noise.expand(2, *noise.shape)
        own = noise * 2
        own.mul_(3).add_(1)
        own[:, 0] = 0
        return own + seen[0]

    policy = new_policy()
    policy.method = Drawing(written)
    graph, inputs = trace_sampling(policy), example_inputs(policy, seed=4)
    given = [*inputs[0].values(), inputs[1].clone()]
    actions = graph.module(*given)[0]
    assert torch.equal(given[-1], inputs[1])
    torch.testing.assert_close(actions, policy.sample(*inputs).actions)
    targets = [node.target for node in graph.module.graph.nodes if node.op == "call_function"]
    assert not [t for t in targets if getattr(t, "_schema", None) and t._schema.is_mutable]


# Every family has its graph tested; OpenVINO takes most of a minute for some of them.
@needs_openvino
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "bc" else pytest.mark.slow) for name in METHODS]
)
def test_openvino_gives_the_chunks_of_eager(exported, family):
    eager, engine = (load_policy(exported(family), engine=name) for name in ("eager", "openvino"))
    expected, found = chunks_of(eager), chunks_of(engine)
    assert np.abs(expected[0].actions - expected[1].actions).max() > 0
    assert difference_n(eager, expected, found) <= PARITY_N
    for a, b in zip(expected, found, strict=True):
        assert b.diagnostics == pytest.approx(a.diagnostics, rel=1e-3, abs=1e-4)
    check_policy(engine)


@needs_openvino
def test_the_goal_is_an_input_of_the_engine(new_policy, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("score", goal_steps=1), {})
    export_engine(path)
    eager, engine = (load_policy(path, engine=name) for name in ("eager", "openvino"))
    rng = np.random.default_rng(5)
    goals = [random_observation(eager.spec, 1, rng, 0).values for _ in range(2)]

    def chunks(policy):
        found = []
        for goal in goals:
            policy.set_goal(goal)
            found += chunks_of(policy)[:1]
        return found

    expected, found = chunks(eager), chunks(engine)
    assert difference_n(eager, *([chunk] for chunk in expected)) > 10 * PARITY_N
    assert difference_n(eager, expected, found) <= PARITY_N


@pytest.mark.slow
@needs_openvino
def test_openvino_gives_the_chunks_of_the_embedded_checkpoint(tmp_path):
    path = Path(shutil.copytree(EMBEDDED, tmp_path / "checkpoint"))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert export_engine(path) == path / ENGINE
    assert {name: (path / name).read_bytes() for name in before} == before
    eager, engine = (load_policy(path, engine=name) for name in ("eager", "auto"))
    assert engine.engine.name == "openvino"
    expected, found = chunks_of(eager), chunks_of(engine)
    assert difference_n(eager, expected, found) <= PARITY_N
    # In rad and m: joint targets are relative to where the arm is, and stay so.
    np.testing.assert_allclose(found[0].actions, expected[0].actions, rtol=0, atol=1e-4)


@needs_openvino
def test_an_engine_computes_for_one_observation_at_a_time(exported, batch_of):
    policy = load_policy(exported("bc"), engine="openvino")
    batch = {name: value for name, value in batch_of(policy, 2).items() if name != "action"}
    with pytest.raises(InvalidValue, match=r"got .*\(2, 1, 2\).* it was made for .*\(1, 1, 2\)"):
        policy.engine(batch, torch.zeros(2, *policy.chunk_shape))
    assert policy.sample(batch, torch.zeros(2, *policy.chunk_shape)).actions.shape[0] == 2


def test_a_result_that_is_not_finite_is_refused():
    signature = Signature({"joint/position": (1, 1, 2)}, (1, 8, 3), (), ("energy",))
    engine = GraphEngine("openvino", signature, lambda inputs: [inputs[1], torch.tensor([float("nan")])])
    with pytest.raises(InvalidValue, match="engine openvino: energy not finite"):
        engine({"joint/position": torch.zeros(1, 1, 2)}, torch.zeros(1, 8, 3))


def test_an_engine_that_differs_from_eager_is_refused(new_policy):
    policy = new_policy("bc")
    graph = trace_sampling(policy)

    def off_by(much):
        return lambda inputs: [each + much / policy.action_layer.scale for each in graph.module(*inputs)]

    assert require_parity(policy, GraphEngine("openvino", graph.signature, off_by(0.9 * PARITY_N))) < PARITY_N
    with pytest.raises(CheckpointError, match=r"engine openvino differs from eager by 1\.1e-04"):
        require_parity(policy, GraphEngine("openvino", graph.signature, off_by(1.1 * PARITY_N)))


class Drawing(nn.Module):
    """Samples with noise of its own, drawn as `how` says."""

    def __init__(self, how) -> None:
        super().__init__()
        self.how = how

    def sample(self, context, noise: Tensor, generator=None) -> Sampled:
        return Sampled(noise + self.how(noise, generator), {"drawn": noise.new_zeros(1)})


def test_draws_from_the_generator_become_inputs_in_their_order(new_policy):
    policy = new_policy()

    def twice(noise, generator):
        first, second = (torch.randn(noise.shape, generator=generator).to(noise.device) for _ in range(2))
        return first - 2 * second

    policy.method = Drawing(twice)
    graph = trace_sampling(policy)
    assert graph.signature.draws == 2 * ((1, *policy.chunk_shape),)
    engine = GraphEngine("compiled", graph.signature, lambda inputs: graph.module(*inputs))
    inputs = example_inputs(policy, seed=5)
    found, expected = (each(*inputs, torch.Generator().manual_seed(9)) for each in (engine, policy.sample))
    torch.testing.assert_close(found.actions, expected.actions)
    assert not torch.equal(found.actions, engine(*inputs, torch.Generator().manual_seed(8)).actions)


UNTRACEABLE = {
    "diffusion: its sampling draws other than by torch.randn": lambda x, g: torch.rand(x.shape, generator=g),
    "diffusion: its sampling draws other than": lambda x, g: torch.randn_like(x),
    "diffusion: its sampling draws other": lambda x, g: torch.randn(x.shape),
    "diffusion: its sampling cannot be made one graph": lambda x, g: x if x.sum() > 0 else 2 * x,
}


@pytest.mark.parametrize(("message", "how"), UNTRACEABLE.items(), ids=UNTRACEABLE.keys())
def test_sampling_that_is_no_fixed_graph_is_refused_by_name(new_policy, message, how):
    policy = new_policy()
    policy.method = Drawing(how)
    with pytest.raises(ConfigError, match=message):
        trace_sampling(policy)


@needs_openvino
@pytest.mark.parametrize("error", [CheckpointError("differs from eager"), InvalidValue("energy not finite")])
def test_an_engine_that_is_not_right_is_not_kept(new_policy, tmp_path, monkeypatch, error):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("bc"), {})

    def refuse(*_):
        raise error

    monkeypatch.setattr("policies.export.make_engine", refuse)
    with pytest.raises(type(error), match=str(error)):
        export_engine(path)
    assert not (path / ENGINE).exists()


@needs_openvino
def test_an_absent_engine_is_named_and_auto_does_without(new_policy, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy(), {})
    with pytest.raises(CheckpointError, match=f"there is no such engine; make it: armature export {path}"):
        load_policy(path, engine="openvino")
    assert load_policy(path, engine="auto").engine is None


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


SPOILT = {
    r"model\.xml: damaged": lambda folder: flip(folder / "model.xml"),
    r"model\.bin: damaged": lambda folder: flip(folder / "model.bin"),
    r"model\.bin: cannot be read": lambda folder: (folder / "model.bin").unlink(),
    r"engine\.json: cannot be read": lambda folder: (folder / DOCUMENT).unlink(),
    r"engine\.json: is not JSON": lambda folder: (folder / DOCUMENT).write_text("{"),
    r"engine\.json: this version reads armature-engine 1": lambda folder: (folder / DOCUMENT).write_text("[]"),
    r"engine\.json: was changed after it was saved": lambda folder: (folder / DOCUMENT).write_text(
        (folder / DOCUMENT).read_text().replace("joint/position", "joint/velocity")
    ),
}


@needs_openvino
@pytest.mark.parametrize("engine", ["openvino", "auto"])
@pytest.mark.parametrize(("message", "spoil"), SPOILT.items(), ids=SPOILT.keys())
def test_a_damaged_engine_is_refused(engine_folder, message, spoil, engine):
    spoil(engine_folder / ENGINE)
    with pytest.raises(CheckpointError, match=message):
        load_policy(engine_folder, engine=engine)
    assert load_policy(engine_folder).engine is None


@needs_openvino
@pytest.mark.parametrize("engine", ["openvino", "auto"])
def test_an_engine_of_other_weights_is_refused(new_policy, engine_folder, tmp_path, engine):
    other = save_checkpoint(tmp_path / "other", new_policy(seed=1), {})
    shutil.copytree(engine_folder / ENGINE, other / ENGINE)
    with pytest.raises(CheckpointError, match=f"from another checkpoint.*make it again: armature export {other}"):
        load_policy(other, engine=engine)


@needs_openvino
def test_saving_a_checkpoint_again_removes_its_engine(new_policy, engine_folder):
    save_checkpoint(engine_folder, new_policy(seed=1), {})
    assert sorted(file.name for file in engine_folder.iterdir()) == ["policy.json", "weights.safetensors"]


def test_unknown_engines_and_those_of_another_device_are_refused(new_policy, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy(), {})
    with pytest.raises(ConfigError, match=r"unknown engine 'openvno'. Did you mean 'openvino'\? Valid: auto, "):
        load_policy(path, engine="openvno")
    with pytest.raises(ConfigError, match="engine 'cuda_graph' computes on cuda, the policy is on cpu"):
        load_policy(path, engine="cuda_graph")


def test_auto_does_without_where_no_graph_can_be_made_of_a_policy(new_policy, tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("ebt", method={"min_gradient": 1e-3}), {})
    # As on a GPU, where the fastest needs no file.
    monkeypatch.setattr("policies.engine._fastest", lambda device, path: "compiled")
    assert load_policy(path, engine="auto").engine is None
    with pytest.raises(ConfigError, match="cannot be made one graph"):
        load_policy(path, engine="compiled")


def test_a_missing_package_is_named_and_auto_does_without(new_policy, tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy(), {})
    (path / ENGINE).mkdir()
    monkeypatch.setattr(openvino_runtime.importlib.util, "find_spec", lambda name: None)
    assert load_policy(path, engine="auto").engine is None

    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(openvino_runtime.importlib, "import_module", absent)
    with pytest.raises(
        ConfigError, match=r"needs the package openvino: pip install 'armature-robot-learning\[engine\]"
    ):
        export_engine(path)


@needs_openvino
def test_training_with_export_writes_the_engine_once_it_is_complete(dataset, tmp_path):
    config = replace(PRESETS["bc_tiny"](dataset, tmp_path / "run"), steps=2, export=True)
    path = train(replace(config, stop_at_step=1))
    assert not (path / ENGINE).exists()
    train(replace(config, resume=True))
    document = json.loads((path / ENGINE / DOCUMENT).read_text())
    assert document["checkpoint"] == read_document(path)["sha256"]
    assert load_policy(path, engine="openvino").engine.name == "openvino"


@needs_openvino
def test_the_verb_says_where_the_engine_lies(new_policy, tmp_path, capsys):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("bc"), {})
    assert main([str(path), "--threads", "1"]) == 0
    assert f"engine: {path / ENGINE}" in capsys.readouterr().err


def test_a_number_of_threads_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="threads is 0, must be at least 1"):
        main([str(tmp_path), "--threads", "0"])


@needs_cuda
@pytest.mark.parametrize("engine", ["compiled", "cuda_graph"])
@every_family
def test_engines_of_a_gpu_give_the_chunks_of_eager(new_policy, tmp_path, family, engine):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy(family), {})
    policy = load_policy(path, "cuda")
    made = make_engine(engine, policy, path, read_document(path)["sha256"])
    assert made.name == engine
    assert require_parity(policy, made) <= PARITY_N


def test_every_engine_is_described():
    from policies import engine

    for name in ENGINES:
        assert f"\n{name} " in engine.__doc__
