from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from armature.transforms import to_absolute, to_relative


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
