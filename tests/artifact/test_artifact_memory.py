"""Arrays that a run takes and gives: whatever memory they have, and nobody else's."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_shiftadd import _runtime


def unaligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins one element after a multiple of 64 bytes."""
    space = np.zeros(array.nbytes + 128, np.uint8)
    start = -space.ctypes.data % 64 + array.itemsize
    copy = space[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert copy.ctypes.data % 64 == array.itemsize
    return copy


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("form", [np.array, unaligned, read_only])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float16", "bool"])
def test_any_array_is_taken(form, dtype: str) -> None:
    array = form(np.arange(24).reshape(2, 3, 4).astype(dtype))
    tensor = _runtime._shared(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    found = _runtime._copied(tensor)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert found.flags.writeable
    assert not np.shares_memory(found, array)


def test_empty_arrays_are_taken() -> None:
    tensor = _runtime._shared(np.zeros((0, 3), np.float32))
    assert _runtime._copied(tensor).shape == (0, 3)
