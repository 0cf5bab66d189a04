from __future__ import annotations

import numpy as np
import pytest
import torch

from armature.normalizer import FieldStats, Normalizer
from policies.nets.affine import AffineLayer
from policies.nets.embeddings import SinusoidalEmbedding
from policies.nets.transformer import ConditionalTransformer
from policies.nets.unet1d import ConditionalUnet1d
from policies.nets.vision import ImageEncoder, centre_corners, crop, random_corners, spatial_softmax


def test_spatial_softmax_finds_a_peak():
    maps = torch.zeros(1, 2, 3, 5)
    maps[0, 0, 2, 1] = 100.0
    maps[0, 1, 0, 4] = 100.0
    torch.testing.assert_close(spatial_softmax(maps), torch.tensor([[[-0.5, 1.0], [1.0, -1.0]]]))


def test_crop_cuts_each_sample_at_its_corner():
    images = torch.arange(2 * 4 * 5, dtype=torch.uint8).reshape(2, 1, 4, 5, 1).expand(-1, 3, -1, -1, 3)
    seen = crop(images, 2, torch.tensor([[0, 0], [2, 1]]))
    assert seen.shape == (2, 3, 2, 3, 3)
    assert seen[0, 2, :, :, 0].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert seen[1, 0, :, :, 0].tolist() == [[31, 32, 33], [36, 37, 38]]


def test_corners_reach_both_ends_and_the_centre_is_between():
    corners = random_corners(500, 3, torch.Generator().manual_seed(0))
    assert corners.unique().tolist() == [0, 1, 2, 3]
    assert centre_corners(1, 8).tolist() == [[4, 4]]


def test_image_encoder_takes_uint8_and_sees_where_things_are():
    torch.manual_seed(0)
    encoder = ImageEncoder((4, 8), (2, 2), 6)
    images = torch.zeros(2, 16, 20, 3, dtype=torch.uint8)
    images[0, 2:5, 2:5], images[1, 10:13, 14:17] = 255, 255
    features = encoder(images)
    assert features.shape == (2, 6)
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_affine_layer_gives_the_numbers_of_the_normaliser():
    values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    normalizer = Normalizer({"x": FieldStats.of(values)}, {"x": "limits"})
    layer = AffineLayer(normalizer.affine("x"))
    normalised = layer(torch.from_numpy(values))
    np.testing.assert_allclose(normalised.numpy(), normalizer.apply("x", values), atol=1e-6)
    np.testing.assert_allclose(layer.invert(normalised).numpy(), values, atol=1e-6)


def test_sinusoidal_embedding_of_zero_and_one():
    embedded = SinusoidalEmbedding(4)(torch.tensor([0, 1]))
    expected = [[0.0, 0.0, 1.0, 1.0], [0.841471, 0.0001, 0.540302, 1.0]]
    torch.testing.assert_close(embedded, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dims", [(8,), (8, 16), (8, 16, 24)])
def test_unet_keeps_the_shape_of_the_chunk(dims):
    unet = ConditionalUnet1d(3, 10, dims, kernel=3, groups=4, step_dim=8)
    assert unet(torch.randn(2, 16, 3), torch.tensor([0, 99]), torch.randn(2, 2, 5)).shape == (2, 16, 3)


def test_unet_of_the_published_widths_is_a_block_smaller_than_the_published_65_million():
    unet = ConditionalUnet1d(2, 2 * 20, (256, 512, 1024), kernel=5, groups=8, step_dim=256)
    assert sum(p.numel() for p in unet.parameters()) == 51_733_250


def test_transformer_is_causal_over_the_actions():
    torch.manual_seed(0)
    net = ConditionalTransformer(3, 5, chunk_steps=6, obs_steps=2, width=16, layers=2, heads=2, dropout=0.0).eval()
    noisy, step, condition = torch.randn(1, 6, 3), torch.tensor([10]), torch.randn(1, 2, 5)
    changed = noisy.clone()
    changed[0, 4] += 1
    difference = (net(noisy, step, condition) - net(changed, step, condition)).abs().amax(dim=-1)[0]
    assert (difference[:4] < 1e-6).all()
    assert (difference[4:] > 1e-4).all()
