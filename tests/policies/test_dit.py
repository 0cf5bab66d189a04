from __future__ import annotations

import pytest
import torch

from policies.nets.dit import ConditionalDit, DitBlock

SIZES = {"action_dim": 3, "condition_dim": 10, "chunk_steps": 6, "width": 16, "layers": 2, "heads": 2, "step_dim": 8}


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    noisy, condition = torch.randn(2, 6, 3, generator=generator), torch.randn(2, 2, 5, generator=generator)
    return noisy, torch.tensor([10, 90]), condition


@pytest.fixture
def opened():
    """Return a network whose layers that begin at zero do so no more."""
    torch.manual_seed(0)
    net = ConditionalDit(**SIZES)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return net.requires_grad_(False)


def test_an_untrained_block_is_the_identity():
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 16)
    assert torch.equal(DitBlock(16, 4)(tokens, torch.randn(2, 16)), tokens)


def test_an_untrained_network_answers_zero(inputs):
    assert torch.equal(ConditionalDit(**SIZES)(*inputs), torch.zeros(2, 6, 3))


def test_a_block_shifts_scales_and_gates_attention_and_feed_forward():
    torch.manual_seed(0)
    block, tokens = DitBlock(16, 4), torch.randn(1, 5, 16)
    block.modulation.bias.data = torch.cat([torch.full((16,), v) for v in (0.5, 1.0, 2.0, -0.5, 0.25, 3.0)])
    # x + gate * attention(norm(x) * (1 + scale) + shift), then the same around the feed-forward.
    x = tokens + 2.0 * block.attention(torch.layer_norm(tokens, (16,), eps=1e-6) * 2.0 + 0.5)
    x = x + 3.0 * block.feed_forward(torch.layer_norm(x, (16,), eps=1e-6) * 1.25 - 0.5)
    torch.testing.assert_close(block(tokens, torch.zeros(1, 16)), x)


@pytest.mark.parametrize("changed", ["a token", "the step", "the first observation"])
def test_every_action_depends_on_everything(opened, inputs, changed):
    noisy, step, condition = (value.clone() for value in inputs)
    if changed == "a token":
        noisy[0, 2] += 1
    elif changed == "the step":
        step[0] = 50
    else:
        condition[0, 0] += 1
    difference = (opened(noisy, step, condition) - opened(*inputs)).abs().amax(dim=-1)
    assert (difference[0] > 1e-5).all()
    assert torch.equal(difference[1], torch.zeros(6))


def test_equal_actions_are_told_apart_by_their_place(opened, inputs):
    noisy, step, condition = inputs
    answers = opened(noisy[:, :1].expand(-1, 6, -1), step, condition)
    assert (answers[:, 1:] - answers[:, :-1]).abs().amax(dim=-1).min() > 1e-4


def test_parameters_of_the_published_size():
    net = ConditionalDit(20, 6_732, 16, width=768, layers=8, heads=12, step_dim=256)
    assert sum(p.numel() for p in net.parameters()) == 92_473_108
