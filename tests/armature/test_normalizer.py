from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from armature.errors import ConfigError, InvalidValue, MissingStatistics
from armature.normalizer import FieldStats, Normalizer

DATA = np.array([[0.0, 5.0, 2.0], [4.0, 5.0, -2.0], [2.0, 5.0, 0.0]])
STATS = FieldStats.of(DATA)


def normalizer(mode: str) -> Normalizer:
    return Normalizer({"joint/position": STATS}, {"joint/position": mode})


def test_statistics_of_three_rows():
    assert STATS.minimum == (0.0, 5.0, -2.0)
    assert STATS.maximum == (4.0, 5.0, 2.0)
    assert STATS.mean == (2.0, 5.0, 0.0)
    assert STATS.std == pytest.approx((1.632993, 0.0, 1.632993), abs=1e-6)
    assert STATS.count == 3


@pytest.mark.fault(row=41)
def test_limits_map_the_range_to_minus_one_and_one_and_a_constant_to_zero():
    expected = [[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(normalizer("limits").apply("joint/position", DATA), expected, atol=1e-12)
    scale, offset = normalizer("limits").affine("joint/position")
    assert scale.tolist() == [0.5, 1.0, 0.5]
    assert offset.tolist() == [-1.0, -5.0, 0.0]


def test_gaussian_maps_to_zero_mean_and_unit_deviation():
    y = normalizer("gaussian").apply("joint/position", DATA)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), [1, 0, 1], atol=1e-12)


def test_identity_changes_nothing():
    assert normalizer("identity").apply("joint/position", DATA).tolist() == DATA.tolist()


@pytest.mark.fault(row=41)
def test_noise_of_a_resting_joint_is_not_blown_up():
    noisy = FieldStats.of(np.array([[1.0], [1.00001]]))
    rest = Normalizer({"x": noisy}, {"x": "limits"})
    assert abs(rest.apply("x", np.array([1.00001]))[0]) < 1e-5


def test_leading_axes_are_kept_and_dimensions_checked():
    assert normalizer("limits").apply("joint/position", np.zeros((2, 4, 3), dtype=np.float32)).shape == (2, 4, 3)
    with pytest.raises(InvalidValue, match=r"joint/position: shape \(2, 4\), expected \(..., 3\)"):
        normalizer("limits").apply("joint/position", np.zeros((2, 4)))


@pytest.mark.fault(row=41)
def test_a_missing_field_is_an_error_that_lists_the_known_ones():
    with pytest.raises(MissingStatistics, match=r"unknown normaliser field 'action'\. Valid: joint/position"):
        normalizer("limits").apply("action", DATA)


def test_scale_and_offset_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        normalizer("limits").affine("joint/position").scale[0] = 2


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.zeros(3), np.array([[np.nan]])])
def test_statistics_of_bad_arrays_are_refused(bad):
    with pytest.raises(InvalidValue, match="statistics need"):
        FieldStats.of(bad)


def test_modes_have_to_be_known_and_match_the_fields():
    with pytest.raises(ConfigError, match=r"'limit'\. Did you mean 'limits'"):
        normalizer("limit")
    with pytest.raises(ConfigError, match=r"statistics are for \['a'\], modes for \[\]"):
        Normalizer({"a": STATS}, {})


def test_a_normalizer_survives_json():
    original = normalizer("gaussian")
    assert Normalizer.from_json(json.loads(json.dumps(original.to_json()))) == original
    with pytest.raises(ConfigError, match="lacks key 'modes'"):
        Normalizer.from_json({"fields": {}})


finite = st.floats(-1e3, 1e3)


@given(
    data=arrays(np.float64, (5, 2), elements=finite),
    x=arrays(np.float64, (3, 2), elements=finite),
    mode=st.sampled_from(["limits", "gaussian", "identity"]),
)
def test_invert_undoes_apply(data, x, mode):
    fitted = Normalizer({"x": FieldStats.of(data)}, {"x": mode})
    np.testing.assert_allclose(fitted.invert("x", fitted.apply("x", x)), x, atol=1e-9)


@given(data=arrays(np.float64, (5, 2), elements=finite))
def test_limits_keep_the_data_between_minus_one_and_one(data):
    y = Normalizer({"x": FieldStats.of(data)}, {"x": "limits"}).apply("x", data)
    assert (np.abs(y) <= 1 + 1e-6).all()
