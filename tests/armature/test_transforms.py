from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from armature.errors import InvalidValue
from armature.transforms import to_absolute, to_relative, unit_quaternion


def test_only_the_part_becomes_relative_to_the_reference():
    actions = np.array([[1.0, 2.0, 0.5], [1.5, 2.5, 0.6]])
    relative = to_relative(actions, np.array([1.0, 2.0]), slice(0, 2))
    assert relative.tolist() == [[0.0, 0.0, 0.5], [0.5, 0.5, 0.6]]
    assert actions[0, 0] == 1.0


def test_every_batch_element_has_its_own_reference():
    relative = to_relative(np.ones((2, 3, 2)), np.array([[1.0], [5.0]]), slice(1, 2))
    assert relative[:, :, 1].tolist() == [[0.0] * 3, [-4.0] * 3]
    assert relative[:, :, 0].tolist() == [[1.0] * 3] * 2


numbers = st.floats(-1e3, 1e3)


@given(actions=arrays(np.float64, (2, 4, 5), elements=numbers), reference=arrays(np.float64, (2, 3), elements=numbers))
def test_absolute_undoes_relative(actions, reference):
    part = slice(1, 4)
    np.testing.assert_allclose(to_absolute(to_relative(actions, reference, part), reference, part), actions, atol=1e-9)
    np.testing.assert_allclose(to_relative(to_absolute(actions, reference, part), reference, part), actions, atol=1e-9)


quaternions = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 0.1)


@pytest.mark.fault(row=17)
@given(quaternion=quaternions, norm=st.floats(0.9991, 1.0009))
def test_a_quaternion_that_is_nearly_unit_becomes_so_and_keeps_its_sign(quaternion, norm):
    unit = quaternion / np.linalg.norm(quaternion)
    found = unit_quaternion(unit * norm)
    np.testing.assert_allclose(found, unit, atol=2e-6)
    assert abs(np.linalg.norm(found) - 1) <= 1e-6


@pytest.mark.fault(row=17)
@given(quaternion=quaternions, norm=st.floats(0, 0.9989) | st.floats(1.0011, 1e300))
def test_a_quaternion_that_is_not_unit_is_refused(quaternion, norm):
    with pytest.raises(InvalidValue, match=r"quaternion has norm .*, expected 1 within 0\.001"):
        unit_quaternion(quaternion / np.linalg.norm(quaternion) * norm)


@pytest.mark.fault(row=17)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_quaternion_that_is_not_finite_is_refused(value):
    with pytest.raises(InvalidValue, match="quaternion has norm"):
        unit_quaternion(np.array([0.0, 0.0, value, 1.0]))


@given(quaternions)
def test_a_quaternion_that_was_rounded_to_float32_stays_as_it_is_bit_for_bit(quaternion):
    rounded = (quaternion / np.linalg.norm(quaternion)).astype(np.float32)
    assert unit_quaternion(rounded.astype(np.float64)).astype(np.float32).tobytes() == rounded.tobytes()
