from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.golden import naive
from tvm_shiftadd.errors import ConversionError, InputError
from tvm_shiftadd.formats import codes

terms_of = st.integers(1, 3)


@st.composite
def valid_codes(draw: st.DrawFn) -> np.ndarray:
    """Codes ``[K, R, O]`` whose weights use no exponent twice, in any order of planes."""
    terms = draw(terms_of)
    shape = draw(st.tuples(st.integers(0, 9), st.integers(1, 5)))
    weights = [draw(st.permutations(range(1, 8)))[:terms] for _ in range(int(np.prod(shape)))]
    signs = draw(hnp.arrays(np.uint8, (terms, *shape), elements=st.sampled_from([0, 8])))
    used = draw(hnp.arrays(np.bool_, (terms, *shape)))
    magnitude = np.array(weights, dtype=np.uint8).reshape(*shape, terms).transpose(2, 0, 1)
    return np.where(used, magnitude | signs, 0).astype(np.uint8)


def test_table_is_the_specification() -> None:
    expected = [naive.decode(code) for code in range(16)]
    assert codes.DECODE_TABLE.tolist() == expected
    assert codes.DECODE_TABLE.dtype == np.int8
    with pytest.raises(ValueError, match="read-only"):
        codes.DECODE_TABLE[0] = 1


@pytest.mark.parametrize(("terms", "count", "largest"), [(1, 15, 64), (2, 77, 96), (3, 175, 112)])
def test_representable_values(terms: int, count: int, largest: int) -> None:
    values = codes.representable(terms)
    assert len(values) == count
    assert values.dtype == np.int32
    assert values.max() == largest
    assert np.array_equal(values, -values[::-1])
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_every_representable_value_round_trips(terms: int) -> None:
    values = codes.representable(terms)
    made = codes.encode(values, terms)
    assert made.shape == (terms, len(values))
    assert made.dtype == np.uint8
    assert np.array_equal(codes.decode(made), values)


def test_canonical_choice() -> None:
    made = codes.encode(np.array([3, -28, 96, 11, 7, 0], dtype=np.int32), 3)
    as_terms = [codes.DECODE_TABLE[column].tolist() for column in made.T]
    assert as_terms == [[2, 1, 0], [-32, 4, 0], [64, 32, 0], [8, 2, 1], [8, -1, 0], [0, 0, 0]]


@given(valid_codes())
def test_decode_agrees_with_definition_and_encode_is_minimal(plain: np.ndarray) -> None:
    values = codes.decode(plain)
    assert values.dtype == np.int32
    assert np.array_equal(values, naive.weight(plain, plain.shape[1:]))
    again = codes.encode(values, plain.shape[0])
    assert np.array_equal(codes.decode(again), values)
    assert codes.count_terms(again) <= codes.count_terms(plain)
    codes.validate(again)
    magnitudes = (again & 7).astype(int)
    assert np.all(np.diff(magnitudes, axis=0) <= 0), "larger exponents first, zeros last"


@given(terms_of, st.integers(-200, 200))
def test_encode_refuses_exactly_what_is_not_representable(terms: int, value: int) -> None:
    if value in codes.representable(terms).tolist():
        assert codes.decode(codes.encode(np.array([value]), terms)) == value
    else:
        with pytest.raises(ConversionError, match=f"cannot make {value}"):
            codes.encode(np.array([0, value]), terms)


def test_encode_keeps_shape_of_scalars_and_empty_arrays() -> None:
    assert codes.encode(np.array(5), 2).shape == (2,)
    assert codes.encode(np.zeros((0, 4), dtype=np.int32), 3).shape == (3, 0, 4)
    assert codes.decode(np.zeros((2, 0, 4), dtype=np.uint8)).shape == (0, 4)


def test_count_terms() -> None:
    assert codes.count_terms(np.array([[[1], [0]], [[9], [15]]], dtype=np.uint8)) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([[8]], dtype=np.uint8), "minus zero"),
        (np.array([[16]], dtype=np.uint8), "at most 15, not 16"),
        (np.array([[3], [3]], dtype=np.uint8), "distinct exponents, but planes 0 and 1"),
        (np.array([[3], [0], [11]], dtype=np.uint8), "planes 0 and 2"),
        (np.array([[1]], dtype=np.int8), "uint8"),
        (np.zeros((4, 1), dtype=np.uint8), "K in 1 to 3"),
        (np.zeros((0, 1), dtype=np.uint8), "K in 1 to 3"),
        (np.uint8(3), "K in 1 to 3"),
    ],
)
def test_decode_refuses(bad: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codes.decode(np.asarray(bad))
    with pytest.raises(InputError, match=message):
        codes.validate(np.asarray(bad))


@pytest.mark.parametrize("terms", [0, 4, -1])
def test_number_of_terms_is_checked(terms: int) -> None:
    with pytest.raises(InputError, match="1 to 3 terms"):
        codes.encode(np.array([1]), terms)
    with pytest.raises(InputError, match="1 to 3 terms"):
        codes.representable(terms)


def test_floats_are_not_encoded() -> None:
    with pytest.raises(InputError, match="float64"):
        codes.encode(np.array([1.0]), 1)  # type: ignore[arg-type]
