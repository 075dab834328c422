"""The manifest holds scale and type of every stored tensor."""

from __future__ import annotations

import numpy as np
import pytest

from tests.convert.networks import Builder, images
from tvm_shiftadd.convert import ConvertOptions, convert
from tvm_shiftadd.manifest import IntegerSpecification


@pytest.mark.parametrize(("unsigned", "dtype"), [(True, "uint8"), (False, "int8")])
def test_scales_and_types_of_layers(unsigned: bool, dtype: str) -> None:
    b = Builder((-1, 4, 4, 3))
    b.relu("one", b.conv("one.conv", "x", 4))
    b.add("tanh", "host", "one", (-1, 4, 4, 4), evaluate=np.tanh)
    b.conv("two", "one", 2)
    graph = b.graph("two", "tanh")
    feeds = images(graph, 8)
    plan = convert(graph, lambda: [feeds], ConvertOptions(unsigned=unsigned)).plan
    specification = IntegerSpecification.of(graph, plan)
    assert specification.version == 2
    first, clip, last = specification.layers
    assert (first.input_dtypes, first.output_dtype) == (("int8",), None)
    assert (clip.input_dtypes, clip.output_dtype) == ((None,), dtype)
    assert (last.input_dtypes, last.output_dtype) == ((dtype,), None)
    assert last.input_exponents == (plan.exponents["one"],) == (clip.output_exponent,)
