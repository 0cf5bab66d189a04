from __future__ import annotations

import pytest
import torch

from policies.nets.attention import Attention, SwiGlu, modulate


def attention(**options) -> Attention:
    torch.manual_seed(0)
    return Attention(16, 4, **options).eval()


def test_attention_is_the_mean_of_the_values_where_all_keys_are_equal():
    net = attention(bias=False, out_bias=False)
    net.query.weight.data.zero_()
    x = torch.randn(2, 5, 16)
    values = net.key_value(x)[..., 16:]
    torch.testing.assert_close(net(x), net.out(values.mean(dim=1, keepdim=True)).expand(-1, 5, -1))


@pytest.mark.parametrize("options", [{}, {"kv_heads": 2}, {"qk_norm": True}, {"context_dim": 6}])
def test_keys_and_values_can_be_computed_once(options):
    net = attention(**options)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 3, options.get("context_dim", 16))
    kept = net.keys_values(context)
    assert kept[0].shape == (2, options.get("kv_heads", 4), 3, 4)
    assert torch.equal(net.attend(x, kept), net(x, context))


def test_what_is_masked_or_lies_ahead_is_not_seen():
    net = attention()
    x, context = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(net(x, context, mask), net(x, context[:, :2]))
    torch.testing.assert_close(net(x, is_causal=True)[:, :3], net(x[:, :3], is_causal=True))


def test_grouped_heads_share_keys_and_values():
    few, many = attention(kv_heads=2), attention()
    for part in ("query", "out"):
        getattr(many, part).load_state_dict(getattr(few, part).state_dict())
    doubled = few.key_value.weight.unflatten(0, (2, 2, 4)).repeat_interleave(2, dim=1).flatten(0, 2)
    bias = few.key_value.bias.unflatten(0, (2, 2, 4)).repeat_interleave(2, dim=1).flatten()
    many.key_value.weight.data, many.key_value.bias.data = doubled, bias
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(few(x), many(x))


def test_swiglu_by_hand():
    net = SwiGlu(1, 1)
    net.value_gate.weight.data = torch.tensor([[2.0], [3.0]])
    net.out.weight.data = torch.tensor([[5.0]])
    expected = 5 * 2 * 3 / (1 + torch.tensor(-3.0).exp())
    torch.testing.assert_close(net(torch.ones(1)), expected[None])


def test_modulation_by_hand():
    x, shift, scale = torch.full((1, 2, 1), 3.0), torch.tensor([[10.0]]), torch.tensor([[1.0]])
    assert modulate(x, shift, scale).tolist() == [[[16.0], [16.0]]]
