from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from armature.cli import main as armature
from armature.errors import CheckpointError, ConfigError, DatasetError, InvalidValue
from armature.spec import JOINT_POSITION
from armature.testing import check_policy, random_observation
from policies import language
from policies.checkpoint import load_policy, read_document, save_checkpoint
from policies.dataset_torch import WindowTensors
from policies.language import TextConfig, embed_prompts, shape_of
from policies.nets.observation import VisionConfig
from policies.nets.prompts import PROMPT, PromptShape, PromptTable, pooled
from policies.presets.catalog import PRESETS
from policies.train import load_data, parse_arguments, train
from policies.train_config import TrainConfig
from policies.train_not_finite import replay
from policies.training_state import OptimizerConfig, TrainingState


@pytest.fixture(autouse=True)
def _nothing_embedded_yet(monkeypatch):
    monkeypatch.setattr(language, "_embedded", type(language._embedded)())


@pytest.fixture
def text(pretrained_folder):
    """Return a function that makes a config: text(kind, max_tokens=8, pooled=False)."""
    return lambda kind, max_tokens=8, **options: TextConfig(str(pretrained_folder(kind)), max_tokens, **options)


@pytest.fixture
def told_config(dataset, tmp_path) -> TrainConfig:
    return PRESETS["hrdt_tiny"](dataset, tmp_path / "run")


@pytest.fixture
def folder_copy(pretrained_folder, tmp_path):
    return lambda kind: shutil.copytree(pretrained_folder(kind), tmp_path / kind)


@pytest.mark.parametrize(
    ("kind", "options", "shape", "tokens"),
    [
        ("t5", {}, (8, 10), 4),
        ("clip", {}, (8, 8), 5),
        ("clip_text", {}, (8, 8), 5),
        ("clip", {"pooled": True}, (1, 6), 1),
        ("clip_text", {"pooled": True}, (1, 6), 1),
    ],
)
def test_a_prompt_becomes_tokens(text, kind, options, shape, tokens):
    config = text(kind, **options)
    assert shape_of(config) == shape
    embedded = embed_prompts(config, ["lift the cube", "push it", "lift the cube"])
    assert embedded[0].shape == (tokens, shape[1])
    assert torch.equal(embedded[0], embedded[2])
    assert not torch.equal(embedded[0][-1], embedded[1][-1])
    assert torch.equal(embed_prompts(config, ["push it"])[0], embedded[1])


# By the tokenizer that the folders come with: begin and end marks, and words in the order of their list.
def test_embeddings_are_those_of_the_saved_networks(text, pretrained_folder):
    from transformers import CLIPModel, T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration.from_pretrained(pretrained_folder("t5")).eval()
    clip = CLIPModel.from_pretrained(pretrained_folder("clip")).eval()
    with torch.no_grad():
        expected = t5.encoder(input_ids=torch.tensor([[2, 3, 4, 8]])).last_hidden_state[0]
        found = clip.text_model(input_ids=torch.tensor([[1, 2, 3, 4, 8]]))
        projected = clip.text_projection(found.pooler_output)
    torch.testing.assert_close(embed_prompts(text("t5"), ["lift the cube"])[0], expected)
    torch.testing.assert_close(embed_prompts(text("clip"), ["lift the cube"])[0], found.last_hidden_state[0])
    torch.testing.assert_close(embed_prompts(text("clip", pooled=True), ["lift the cube"])[0], projected)


def test_each_prompt_is_embedded_once_by_a_tower_that_is_loaded_for_new_ones_only(text, monkeypatch):
    from policies.nets import pretrained_text

    loaded, load = [], pretrained_text.load_network
    monkeypatch.setattr(pretrained_text, "load_network", lambda *a: loaded.append(1) or load(*a))
    embed_prompts(text("t5"), ["lift", "push"])
    embed_prompts(text("t5"), ["push", "lift", "push"])
    assert len(loaded) == 1
    embed_prompts(text("t5"), ["can", "lift"])
    assert len(loaded) == 2
    embed_prompts(text("clip"), ["lift"])
    assert len(loaded) == 3
    monkeypatch.setattr(language, "_KEPT", 2)
    embed_prompts(text("t5"), ["cube"])
    assert [key[-1] for key in language._embedded] == ["lift", "cube"]


def test_the_table_pads_masks_and_gathers():
    table = PromptTable(PromptShape(4, 2))
    table.fill([torch.full((1, 2), 1.0), torch.full((3, 2), 2.0)])
    tokens, mask = table(torch.tensor([1, 0, 1]))
    assert tokens[:, :, 0].tolist() == [[2, 2, 2, 0], [1, 0, 0, 0], [2, 2, 2, 0]]
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False], [True, True, True, False]]
    assert pooled(tokens, mask).tolist() == [[2, 2], [1, 1], [2, 2]]
    assert table.state_dict() == {}


WRONG = {
    r"prompt 'lift the cube': 4 tokens, text\.max_tokens allows 1\.\.3": ("t5", {"max_tokens": 3}),
    r"text\.max_tokens 10: .* allows 1\.\.9": ("clip", {"max_tokens": 10}),
    r"text\.max_tokens 0: ": ("t5", {"max_tokens": 0}),
    r"is a t5, which has no pooled output": ("t5", {"pooled": True}),
    r"unknown model_type 'dinov2'": ("dinov2", {}),
    r"tokenizer\.json: there is no such file": ("no_tokenizer", {}),
    r"tokenizer\.json: is no tokenizer": ("broken_tokenizer", {}),
    r"gives token 99, the network knows 20": ("large_tokenizer", {}),
    r"its fingerprint is .*, the policy was trained with 0123": ("t5", {"fingerprint": "0123"}),
    r"there is no such folder": ("absent", {}),
}


@pytest.mark.parametrize(("message", "case"), WRONG.items(), ids=WRONG)
def test_what_cannot_be_embedded_is_refused(text, folder_copy, message, case):
    kind, options = case
    if kind in ("t5", "clip", "dinov2"):
        config = text(kind, **options)
    else:
        folder = folder_copy("t5")
        file = folder / "tokenizer.json"
        written = file.read_text()
        file.unlink()
        if kind == "broken_tokenizer":
            file.write_text("{}")
        elif kind == "large_tokenizer":
            file.write_text(written.replace('"lift": 2', '"lift": 99').replace('"lift":2', '"lift":99'))
        elif kind == "absent":
            shutil.rmtree(folder)
        config = TextConfig(str(folder), 8)
    with pytest.raises(ConfigError, match=message):
        _ = shape_of(config), embed_prompts(config, ["lift the cube"])


FILM = VisionConfig(network="resnet18", pooling="average", film=True, crop_margin_px=4)


@pytest.mark.parametrize("family", ["diffusion", "score"])
def test_film_tells_families_that_take_no_prompt_themselves(new_policy, batch_of, text, family):
    policy = new_policy(family, text=text("clip", pooled=True), vision=FILM)
    policy.set_prompt("push it")
    batch = {**batch_of(policy, 2), PROMPT: torch.tensor([0, 0])}
    assert torch.isfinite(policy.loss(batch, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("vision", [None, FILM], ids=["tokens", "film"])
def test_a_policy_is_told_what_to_do(new_policy, batch_of, text, vision):
    config = text("clip", pooled=vision is not None)
    policy = new_policy("mode", text=config, **({"vision": vision} if vision else {}))
    policy.set_prompts(["lift the cube", "push it"])
    batch = {**batch_of(policy, 3), PROMPT: torch.tensor([0, 1, 0])}
    context, spec = policy.encoder(batch), policy.encoder.context_spec
    assert context.language.shape == (3, spec.language_tokens, spec.language_dim)
    assert context.language_mask.shape == (3, spec.language_tokens)
    assert torch.equal(context.language[0], context.language[2])
    other = policy.encoder({**batch, PROMPT: torch.tensor([1, 1, 0])})
    changed = [not torch.equal(a, b) for a, b in zip(context.language, other.language, strict=True)]
    assert changed == [True, False, False]
    alone = policy.encoder({name: value[1:2] for name, value in batch.items()})
    torch.testing.assert_close(alone.images, context.images[1:2])


@pytest.mark.parametrize("family", ["hrdt", "mode"])
def test_what_is_done_depends_on_the_prompt(new_policy, batch_of, text, family):
    policy = new_policy(family, text=text("clip")).train()
    policy.set_prompts(["lift the cube", "push it"])
    batch = {**batch_of(policy, 4), PROMPT: torch.tensor([0, 1, 0, 1])}
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-2, warmup_steps=1))
    for _ in range(3):
        state.update(batch, seed=0, steps=10)
    assert [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    noise = torch.randn(batch["action"].shape, generator=torch.Generator().manual_seed(0))
    lifted, pushed = (policy.eval().sample({**batch, PROMPT: torch.full((4,), i)}, noise).actions for i in (0, 1))
    assert (lifted - pushed).abs().amax() > 1e-5


def test_a_family_that_would_not_see_the_prompt_is_refused(new_policy, text):
    with pytest.raises(ConfigError, match=r"the family diffusion takes no prompt\. Valid: .*hrdt.*vision\.film"):
        new_policy("diffusion", text=text("t5"))


def test_film_without_a_camera_shows_nobody_the_prompt(new_policy, text):
    with pytest.raises(ConfigError, match=r"the family score takes no prompt\..*vision\.film and a camera"):
        new_policy("score", text=text("clip", pooled=True), vision=FILM, observations=(JOINT_POSITION,))


def test_film_learns_from_prompts(new_policy, batch_of, text):
    policy = new_policy(text=text("clip", pooled=True), vision=FILM).train()
    policy.set_prompts(["lift the cube", "push it"])
    batch = {**batch_of(policy, 2), PROMPT: torch.tensor([0, 1])}
    state = TrainingState(policy, OptimizerConfig(learning_rate=1e-2, warmup_steps=1))
    for _ in range(2):
        state.update(batch, seed=0, steps=10)
    lifted, pushed = (policy.eval().encoder({**batch, PROMPT: torch.tensor([i, i])}).images for i in (0, 1))
    assert not torch.allclose(lifted, pushed)


def chunk_of(policy):
    policy.reset(3)
    return policy.infer(random_observation(policy.spec, policy.obs_steps, np.random.default_rng(0), 0)).actions


def test_a_loaded_policy_does_as_it_is_told(new_policy, text, tmp_path):
    policy = new_policy("hrdt", text=text("t5"))
    path = save_checkpoint(tmp_path / "checkpoint", policy, {})
    loaded = load_policy(path, prompt="lift the cube")
    check_policy(loaded)
    policy.set_prompt("lift the cube")
    assert np.array_equal(chunk_of(policy), chunk_of(loaded))
    assert read_document(path)["policy"]["text"]["fingerprint"] == policy.config.text.fingerprint != ""
    untold = load_policy(path)
    for use in (untold.reset, lambda: untold.infer(random_observation(policy.spec, 1, np.random.default_rng(0), 0))):
        with pytest.raises(ConfigError, match=r"hrdt-\w+ takes a prompt and has 0: set one"):
            use()
    with pytest.raises(ConfigError, match="the prompt is empty"):
        untold.set_prompt("")
    with pytest.raises(ConfigError, match=r"prompt 'lift lift .*: 9 tokens, text\.max_tokens allows 1\.\.8"):
        untold.set_prompt("lift " * 8)


def test_a_prompt_for_a_policy_without_language_is_refused(new_policy, tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy(), {})
    with pytest.raises(ConfigError, match="takes no prompt, got 'lift the cube'"):
        load_policy(path, prompt="lift the cube")


def test_evaluation_without_a_prompt_ends_with_one_line(new_policy, text, tmp_path, capsys):
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("hrdt", text=text("t5")), {})
    assert armature(["eval", "--checkpoint", str(path)]) == 2
    assert "takes a prompt and has 0: set one" in capsys.readouterr().err


def test_a_checkpoint_names_a_text_folder_that_changed(new_policy, folder_copy, tmp_path):
    folder = folder_copy("t5")
    path = save_checkpoint(tmp_path / "checkpoint", new_policy("hrdt", text=TextConfig(str(folder), 8)), {})
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"push"', '"pull"'))
    with pytest.raises(CheckpointError, match=r"text\.folder .*: its fingerprint is"):
        load_policy(path)


PROMPTS = ["lift the cube", "push it", "lift the cube", "push the can"]


def test_windows_refer_to_the_prompts_of_their_episodes(told_config, record, text):
    dataset = record([4, 3, 5, 2], prompts=["lift", "push", "can", "cube"])
    policy = replace(told_config.policy, text=text("t5"), chunk_steps=4)
    _, data = load_data(replace(told_config, dataset=dataset, policy=policy, validation_fraction=0.5))
    assert data.prompts == ("can", "cube", "lift", "push")
    counts = [
        each.batch(torch.arange(len(each)))[PROMPT].bincount(minlength=4) for each in (data.train, data.validation)
    ]
    assert sum(counts).tolist() == [5, 2, 4, 3]
    # An episode is wholly in one part, under its own prompt.
    assert [sorted(pair) for pair in zip(*(c.tolist() for c in counts), strict=True)] == [
        [0, 5],
        [0, 2],
        [0, 4],
        [0, 3],
    ]


def test_training_with_prompts_resumes_exactly_and_follows_them(told_config, record, text, tmp_path):
    dataset = record([9, 8, 7, 6], prompts=PROMPTS)
    policy = replace(told_config.policy, text=text("t5"))
    through = replace(told_config, dataset=dataset, policy=policy, steps=4, out=tmp_path / "through")
    parts = replace(through, out=tmp_path / "parts")
    path = train(through)
    train(replace(parts, stop_at_step=2))
    train(replace(parts, resume=True))
    weights = [(run.out / "checkpoint" / "weights.safetensors").read_bytes() for run in (through, parts)]
    assert weights[0] == weights[1]
    assert load_policy(path, prompt="push it").config.takes_prompt
    with pytest.raises(ConfigError, match=r"--resume: policy\.text\.max_tokens is 9, the training began with \d"):
        train(replace(parts, resume=True, policy=replace(policy, text=text("t5", max_tokens=9))))


def test_a_step_that_was_not_finite_is_computed_again_with_its_prompts(told_config, record, text):
    policy = replace(told_config.policy, text=text("t5"))
    optimizer = replace(told_config.optimizer, learning_rate=1e30, warmup_steps=0)
    dataset = record([9, 8, 7, 6], prompts=PROMPTS)
    with pytest.raises(InvalidValue, match="look at it with"):
        train(replace(told_config, dataset=dataset, policy=policy, optimizer=optimizer))
    assert any("first not finite in the output of " in line for line in replay(told_config.out / "not_finite"))


def test_an_episode_without_a_prompt_is_named_before_training(told_config, record, text):
    dataset = record([4, 4, 4], prompts=["lift", "", "push"])
    config = replace(told_config, dataset=dataset, policy=replace(told_config.policy, text=text("t5")))
    with pytest.raises(DatasetError, match="episodes without a prompt: 1; the policy takes one"):
        train(config)
    assert not told_config.out.exists()
    with pytest.raises(ConfigError, match="there is no such folder"):
        train(replace(config, policy=replace(config.policy, text=TextConfig("nowhere"))))


def test_a_state_from_before_nested_options_existed_had_their_defaults(train_config, monkeypatch):
    from armature.config import to_plain

    def old(config):
        document = to_plain(config)
        if "policy" in document:
            document["policy"].pop("text")
            for name in ("network", "pooling", "key_points", "film", "pretrained"):
                document["policy"]["vision"].pop(name)
        return document

    with monkeypatch.context() as before:
        before.setattr("policies.train.to_plain", old)
        train(replace(train_config, stop_at_step=1))
    state = json.loads((train_config.out / "training_state" / "state.json").read_text())
    assert "text" not in state["config"]["policy"]
    train(replace(train_config, resume=True, stop_at_step=2))


def test_encoders_are_read_from_the_command_line(tmp_path):
    arguments = ["--dataset", "d", "--out", str(tmp_path), "--preset", "diffusion_tiny"]
    arguments += [
        "--policy.text.folder",
        "t5",
        "--policy.text.max-tokens",
        "7",
        "--policy.vision.network",
        "pretrained",
    ]
    arguments += ["--policy.vision.pretrained.folders", "a", "b", "--policy.vision.pooling", "tokens"]
    config = parse_arguments(arguments).policy
    assert config.text == TextConfig("t5", 7)
    assert (config.vision.pretrained.folders, config.vision.pooling) == (("a", "b"), "tokens")


def test_window_tensors_without_prompts_have_none(train_config):
    _, data = load_data(train_config)
    assert isinstance(data.train, WindowTensors)
    assert PROMPT not in data.train.batch(torch.arange(2))
    assert data.prompts == ()
