"""One weight's way from float to shifts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_shiftadd.demo.weight import Weight, pick
from tvm_shiftadd.errors import ConversionError
from tvm_shiftadd.formats.codes import encode, representable
from tvm_shiftadd.formats.packing import pack


def weight(integer: int, exponent: int = 6) -> Weight:
    codes = encode(np.array([integer]), 3)[:, 0]
    stored = tuple(int(code) for code in codes)
    return Weight("layer", (0, 0, 0, 0), integer * 2.0**-exponent, exponent, stored, integer)


@given(st.sampled_from(representable(3).tolist()), st.integers(-128, 127))
def test_shifts_make_the_product(integer: int, x: int) -> None:
    one = weight(integer)
    assert one.times(x) == integer * x
    assert (eval(one.as_shifts(f"({x})")) if one.terms else 0) == integer * x


def test_texts() -> None:
    one = weight(28, exponent=6)
    assert one.as_powers() == "+2⁵ -2²"
    assert one.as_shifts("x") == "+(x << 5) -(x << 2)"
    assert one.after == 0.4375
    assert one.where() == "kernel row 0, kernel column 0, input channel 0, output channel 0"


def compiled(values: np.ndarray[Any, Any], exponents: tuple[int, ...]) -> tuple[Any, Any]:
    """A model and an artifact with one dense layer of integer weights [I, O]."""
    layer = SimpleNamespace(name="fc", terms=2, weight_exponents=exponents)
    other = SimpleNamespace(name="pool", terms=None, weight_exponents=())
    artifact = SimpleNamespace(
        parameters={"fc.codes": pack(encode(values, 2))},
        manifest=SimpleNamespace(integer_specification=SimpleNamespace(layers=[other, layer])),
    )
    floats = np.ldexp(values.astype(np.float32), -np.array(exponents))
    node = SimpleNamespace(name="fc", weight=floats)
    return SimpleNamespace(nodes=[node]), artifact


def test_the_most_telling_weight_is_picked() -> None:
    values = np.array([[64, 3, 5], [-10, -28, 6], [0, 1, 96]])
    one = pick(*compiled(values, (4, 5, 6)))
    assert (one.layer, one.position, one.integer, one.exponent) == ("fc", (1, 1), -28, 5)
    assert one.before == one.after == -28 / 32
    assert one.where() == "input channel 1, output channel 1"


def test_any_weight_will_do_where_none_has_two_terms() -> None:
    one = pick(*compiled(np.array([[4, -8]]), (3, 3)))
    assert (one.position, one.integer) == ((0, 1), -8)


def test_an_artifact_without_weights_is_refused() -> None:
    model, artifact = compiled(np.array([[4]]), (3,))
    artifact.parameters = {}
    with pytest.raises(ConversionError, match="with a weight layer"):
        pick(model, artifact)
