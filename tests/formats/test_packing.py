from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.golden import naive
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import codes, packing

any_codes = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 5)),
    elements=st.integers(0, 15),
)


@given(any_codes)
def test_round_trip(plain: np.ndarray) -> None:
    packed = packing.pack(plain)
    assert packed.shape == (plain.shape[0], packing.packed_rows(plain.shape[1]), plain.shape[2])
    assert np.array_equal(packing.unpack(packed, plain.shape[1]), plain)
    assert np.array_equal(naive.unpack(packed, plain.shape[1]), plain)


@given(any_codes)
def test_packing_leaves_its_input_alone(plain: np.ndarray) -> None:
    before = plain.copy()
    packing.pack(plain)
    assert np.array_equal(plain, before)


def test_the_worked_byte() -> None:
    # Even index -4 (code 11) in the low nibble, odd index +32 (code 6) in the high one.
    assert packing.pack(np.array([[[11], [6]]], dtype=np.uint8)).tolist() == [[[0x6B]]]


def test_odd_reduction_leaves_the_high_nibble_zero() -> None:
    packed = packing.pack(np.full((1, 3, 1), 15, dtype=np.uint8))
    assert packed.tolist() == [[[0xFF], [0x0F]]]


def test_decode_packed_gives_the_weight_in_its_shape() -> None:
    values = np.arange(-9, 9).reshape(3, 1, 2, 3)
    packed = packing.pack(codes.encode(values.reshape(6, 3), 3))
    assert np.array_equal(packing.decode_packed(packed, (3, 1, 2, 3)), values)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 3), dtype=np.uint8),
        np.zeros((1, 2, 3), dtype=np.int8),
        np.full((1, 2, 3), 16, dtype=np.uint8),
    ],
)
def test_pack_refuses(bad: np.ndarray) -> None:
    with pytest.raises(InputError):
        packing.pack(bad)


@pytest.mark.parametrize(
    ("packed", "reduction", "message"),
    [
        (np.zeros((1, 2, 3), dtype=np.uint8), 5, "5 codes need 3 packed rows, not 2"),
        (np.zeros((1, 2, 3), dtype=np.int32), 4, "uint8"),
        (np.zeros((2, 3), dtype=np.uint8), 4, "uint8"),
        (np.full((1, 2, 1), 0x11, dtype=np.uint8), 3, "unused high nibble"),
    ],
)
def test_unpack_refuses(packed: np.ndarray, reduction: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        packing.unpack(packed, reduction)


def test_decode_packed_refuses_another_number_of_outputs_and_bad_codes() -> None:
    packed = np.zeros((1, 2, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="3 output channels, not 4"):
        packing.decode_packed(packed, (4, 4))
    with pytest.raises(InputError, match="minus zero"):
        packing.decode_packed(packed + np.uint8(8), (4, 3))
