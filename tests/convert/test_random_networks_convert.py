from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.convert.networks import Builder, images, window
from tvm_shiftadd.convert import ConvertOptions, Graph, convert, prove_plan, run_float, run_integer
from tvm_shiftadd.convert.sequence import SequentialConversion
from tvm_shiftadd.convert.storage import stored


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Networks of a few random operators, each on tensors made before."""
    b = Builder((-1, 6, 6, 4), draw(st.integers(0, 1000)))
    maps = ["x"]
    for step in range(draw(st.integers(1, 7))):
        name = f"t{step}"
        source = draw(st.sampled_from(maps[-3:]))
        size = b.shapes[source]
        kind = draw(
            st.sampled_from(["conv", "deep", "relu", "add", "max", "mean", "concat", "host"])
        )
        if kind == "conv":
            b.conv(name, source, draw(st.sampled_from([4, 6])), draw(st.sampled_from([1, 3])))
        elif kind == "deep":
            b.conv(name, source, size[3], 3, groups=size[3])
        elif kind == "relu":
            b.relu(name, source, draw(st.sampled_from([math.inf, 6.0, 0.5])))
        elif kind == "add":
            others = [other for other in maps if b.shapes[other] == size]
            b.plus(name, source, draw(st.sampled_from(others)))
        elif kind in ("max", "mean"):
            rest = {} if kind == "max" else {"count_include_pad": False}
            edge = {**window((3, 3), (1, 1)), "padding": (1, 1, 1, 1)}
            b.add(name, f"{'max' if kind == 'max' else 'avg'}_pool2d", source, size, **edge, **rest)
        elif kind == "concat":
            other = draw(st.sampled_from(maps))
            width = size[3] + b.shapes[other][3]
            b.add(name, "concat", f"{source} {other}", (*size[:3], width), axis=3)
        else:
            b.add(name, "host", source, size, evaluate=np.tanh)
        maps.append(name)
    b.dense("scores", b.flat("flat", maps[-1]), 3)
    outputs = ["scores", *draw(st.lists(st.sampled_from(maps[1:]), max_size=1))]
    return b.graph(*outputs)


@settings(max_examples=40)
@given(networks(), st.integers(1, 3), st.booleans(), st.booleans())
def test_any_network_converts_to_integers_that_are_proved(
    graph: Graph, terms: int, compensation: bool, unsigned: bool
):
    feeds = images(graph, 24)
    options = ConvertOptions(terms=terms, compensation=compensation, unsigned=unsigned)
    plan = convert(graph, lambda: [feeds], options).plan
    assert set(plan.exponents) == stored(graph).tensors
    prove_plan(graph, plan)
    wanted = run_float(graph, feeds)["scores"]
    have = run_integer(graph, plan, feeds)[0]["scores"]
    assert np.isfinite(have).all()
    if unsigned:
        real = run_float(graph, images(graph, 24, seed=9), keep=tuple(plan.unsigned))
        assert all((real[name] >= 0).all() for name in plan.unsigned)
    error, spread = np.std(have - wanted), np.std(wanted - wanted.mean(0))
    assert error <= {1: 1.5, 2: 0.4, 3: 0.4}[terms] * spread + 1e-3


@settings(max_examples=10)
@given(networks(), st.booleans())
def test_the_layer_by_layer_run_is_the_integer_network(graph: Graph, unsigned: bool):
    feeds = images(graph, 6)
    exponents = dict.fromkeys(stored(graph).tensors, 5)
    sequence = SequentialConversion(
        graph, exponents, ConvertOptions(unsigned=unsigned), lambda *step: None
    )
    seen: dict[str, np.ndarray] = {}
    step = sequence._step

    def watched(node: object) -> None:
        step(node)  # type: ignore[arg-type]
        value = sequence._converted[node.output]  # type: ignore[attr-defined]
        seen[node.output] = getattr(value, "values", value)  # type: ignore[attr-defined]

    sequence._step = watched  # type: ignore[method-assign, assignment]
    sequence.run(feeds)
    taps = run_integer(graph, sequence.plan, feeds, keep=tuple(graph.shapes))[1]
    for name, tensor in taps.items():
        if name in seen and seen[name].dtype == tensor.values.dtype:
            np.testing.assert_array_equal(tensor.values, seen[name])
