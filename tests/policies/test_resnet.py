from __future__ import annotations

import pytest
import torch

from armature.errors import ConfigError
from policies.nets.observation import VisionConfig
from policies.nets.pretrained_vision import PretrainedVision
from policies.nets.resnet import ResNet, ResNetEncoder

# Of the trunk of ResNet-18, by hand: stem 9,536, stages 147,968 + 525,568 + 2,099,712 + 8,393,728. FiLM of a condition
# of 512 adds 2 x 513 for each channel of the four stages: 960 channels, and 3,840 with bottlenecks.
COUNTS = {
    ("resnet18", 0): 11_176_512,
    ("resnet34", 0): 21_284_672,
    ("resnet50", 0): 23_508_032,
    ("resnet18", 512): 11_176_512 + 984_960,
    ("resnet50", 512): 23_508_032 + 3_939_840,
}


@pytest.mark.parametrize(("name", "film_dim"), COUNTS)
def test_trunks_have_the_published_sizes(name, film_dim):
    with torch.device("meta"):
        trunk = ResNet(name, film_dim)
        assert sum(p.numel() for p in trunk.parameters()) == COUNTS[name, film_dim]
        maps = trunk(torch.zeros(2, 3, 224, 224), torch.zeros(2, film_dim))
    assert maps.shape == (2, 512 if name != "resnet50" else 2048, 7, 7)


@pytest.mark.parametrize(
    ("name", "pooling", "key_points", "shape"),
    [
        ("resnet18", "spatial_softmax", 0, (1, 64)),
        ("resnet18", "spatial_softmax", 32, (1, 64)),
        ("resnet34", "average", 0, (1, 512)),
        ("resnet50", "average", 0, (1, 2048)),
        ("resnet50", "tokens", 0, (6, 2048)),
    ],
)
def test_an_image_becomes_as_many_tokens_as_announced(name, pooling, key_points, shape):
    with torch.device("meta"):
        encoder = ResNetEncoder(name, pooling, 64, key_points)
        assert encoder(torch.zeros(2, 76, 40, 3, dtype=torch.uint8)).shape == (2, *shape)
    assert (encoder.count_tokens(76, 40), encoder.dim) == shape


def test_average_is_that_of_the_cells():
    torch.manual_seed(0)
    average, cells = (ResNetEncoder("resnet18", pooling, 64).eval() for pooling in ("average", "tokens"))
    cells.load_state_dict(average.state_dict())
    images = torch.randint(0, 256, (2, 40, 64, 3), dtype=torch.uint8)
    torch.testing.assert_close(average(images), cells(images).mean(dim=1, keepdim=True))


def test_film_begins_as_nothing_then_scales_and_shifts_each_stage():
    torch.manual_seed(0)
    trunk = ResNet("resnet18", film_dim=3)
    x, condition = torch.randn(2, 3, 40, 40), torch.randn(2, 3)
    plain = trunk(x, torch.zeros(2, 3))
    assert torch.equal(trunk(x, condition), plain)
    film = trunk.films[3]
    film.bias.data[:512], film.bias.data[512:] = 1.0, -5.0
    torch.testing.assert_close(trunk(x, condition), 2 * plain - 5)
    film.bias.data.zero_()
    for stage in range(4):
        film = trunk.films[stage]
        film.weight.data.fill_(0.1)
        assert not torch.allclose(trunk(x, condition), plain)
        film.weight.data.zero_()


def test_every_weight_of_a_conditioned_network_gets_a_gradient():
    torch.manual_seed(0)
    encoder = ResNetEncoder("resnet50", "average", 64, film_dim=2)
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    encoder(images, torch.randn(2, 2)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("pooling", ["spatial_softmax", "average", "tokens"])
def test_a_policy_sees_through_resnets(new_policy, batch_of, pooling):
    vision = VisionConfig(network="resnet18", pooling=pooling, features=16, crop_margin_px=4)
    policy = new_policy(vision=vision, obs_steps=2)
    batch = batch_of(policy, 2)
    context = policy.encoder(batch)
    spec = policy.encoder.context_spec
    assert context.images.shape == (2, 2, spec.image_tokens, spec.image_dim)
    assert (spec.image_tokens, spec.image_dim) == {
        "spatial_softmax": (2, 16), "average": (2, 512), "tokens": (2, 512)}[pooling]  # fmt: skip
    assert torch.isfinite(policy.loss(batch, torch.Generator().manual_seed(0)))


BAD = {
    "vision.pooling 'average': cnn allows spatial_softmax": VisionConfig(pooling="average", crop_margin_px=4),
    "vision.pooling 'pooled': resnet18 allows": VisionConfig(network="resnet18", pooling="pooled", crop_margin_px=4),
    "vision.pretrained.folders /nowhere/dinov2: vision.network cnn looks at none of them": VisionConfig(
        pretrained=PretrainedVision(("/nowhere/dinov2",)), crop_margin_px=4
    ),
    "vision.film: needs a prompt": VisionConfig(network="resnet18", film=True, crop_margin_px=4),
}


@pytest.mark.parametrize(("message", "vision"), BAD.items(), ids=BAD.keys())
def test_wrong_configs_are_refused(new_policy, message, vision):
    with pytest.raises(ConfigError, match=message):
        new_policy(vision=vision)
