"""Which operators become shift-add, and what the user is told about the others."""

from __future__ import annotations

import math
from typing import Any

from relay_passes.host_reasons import HOST_REASONS
from relay_passes.select_regions import (
    LEADS_NOWHERE,
    MAP_IN_FLOAT,
    NOT_FED,
    REGIONS_ATTR,
    SelectRegions,
    select,
)
from tests.relay_passes.onnx_networks import converted
from tests.relay_passes.programs import (
    Program,
    constant,
    conv2d_last,
    names,
    program,
    random,
)
from tvm_shiftadd._compat import relax

SHAPE = ("N", 8, 8, 4)
W = random(4, 4, 3, 3)


def reasons(p: Program, *results: Any) -> dict[str, str]:
    mod = SelectRegions()(p.module(*results))
    found = {str(k): str(v) for k, v in mod["main"].attrs[REGIONS_ATTR].items()}
    assert found == select(mod["main"])
    return found


def conv(p: Program, name: str, x: Any) -> Any:
    return p(name, conv2d_last(x, W, padding=1))


def test_layers_and_what_lies_between_them_convert() -> None:
    p, x = program(SHAPE)
    first = conv(p, "block/first", x)
    bias = p("block/first.bias", relax.op.add(first, constant(random(4))))
    relu = p("block/relu", relax.op.clip(bias, 0.0, math.inf))
    pool = p("block/pool", relax.op.nn.max_pool2d(relu, (2, 2), layout="NHWC"))
    last = conv(p, "block/last", pool)
    assert reasons(p, last) == dict.fromkeys(
        ["block/first", "block/first.bias", "block/relu", "block/pool", "block/last"], ""
    )


def test_a_whole_network() -> None:
    found = {str(k): str(v) for k, v in converted("residual").selected["main"].attrs[
        REGIONS_ATTR
    ].items()}  # fmt: skip
    assert not any(found.values())
    assert {"stem/conv", "first/add", "pool", "flat", "fc"} <= set(found)


def test_the_host_keeps_its_operators_under_their_names() -> None:
    p, x = program(SHAPE)
    gate = p("user/gate", relax.op.sigmoid(conv(p, "user/conv", x)))
    scaled = p("user/scale", relax.op.multiply(gate, gate))
    assert reasons(p, conv(p, "user/next", scaled)) == {
        "user/conv": "",
        "user/gate": "a sigmoid has no shift-add form",
        "user/scale": HOST_REASONS["multiply"],
        "user/next": "",
    }


def test_what_no_region_feeds_stays() -> None:
    p, x = program(SHAPE)
    host = p("host", relax.op.exp(x))
    clip = p("user/clip", relax.op.clip(host, 0.0, 1.0))
    total = p("user/add", relax.op.add(clip, host))
    mean = p("user/mean", relax.op.mean(x, axis=[1, 2], keepdims=True))
    dense = p("dense", relax.op.matmul(mean, constant(random(4, 3))))
    found = reasons(p, conv(p, "conv", total), dense)
    for name in ("user/clip", "user/add", "user/mean"):
        assert found[name] == NOT_FED
    assert found["conv"] == found["dense"] == ""


def test_the_networks_input_feeds_what_int8_serves() -> None:
    p, x = program(SHAPE)
    clip = p("clip", relax.op.clip(x, 0.0, 1.0))
    pool = p("pool", relax.op.nn.max_pool2d(clip, (2, 2), layout="NHWC"))
    assert set(reasons(p, conv(p, "conv", pool)).values()) == {""}


def test_what_only_the_host_reads_stays_in_float() -> None:
    p, x = program(SHAPE)
    layer = conv(p, "conv", x)
    relu = p("user/relu", relax.op.clip(layer, 0.0, math.inf))
    turned = p("user/turned", relax.op.permute_dims(relu, [0, 3, 1, 2]))
    found = reasons(p, p("softmax", relax.op.nn.softmax(turned, axis=1)))
    assert found["user/relu"] == found["user/turned"] == LEADS_NOWHERE
    assert found["softmax"].startswith("softmax")


def test_a_sum_of_accumulators_converts_even_at_the_end() -> None:
    p, x = program(SHAPE)
    total = p("total", relax.op.add(conv(p, "left", x), conv(p, "right", x)))
    assert set(reasons(p, total).values()) == {""}


def test_a_mean_converts_unless_its_map_is_also_read_in_float() -> None:
    p, x = program(SHAPE)
    layer = conv(p, "conv", x)
    mean = p("mean", relax.op.mean(layer, axis=[1, 2], keepdims=True))
    assert reasons(p, mean)["mean"] == ""
    host = p("host", relax.op.exp(layer))
    assert reasons(p, mean, host)["mean"] == MAP_IN_FLOAT
    q, x = program((1, 8, 8, 4))
    layer = conv(q, "conv", x)
    mean = q("user/mean", relax.op.mean(layer, axis=[1, 2], keepdims=True))
    assert reasons(q, mean, layer)["user/mean"] == MAP_IN_FLOAT
    both = q("both", relax.op.concat([layer, constant(random(1, 8, 8, 4))], axis=0))
    assert reasons(q, mean, both)["user/mean"] == MAP_IN_FLOAT


def test_a_constant_behind_a_layer_that_is_read_twice_is_no_bias() -> None:
    p, x = program(SHAPE)
    layer = conv(p, "conv", x)
    bias = p("user/bias", relax.op.add(layer, constant(random(4))))
    assert reasons(p, bias)["user/bias"] == ""
    refused = "it adds a constant that no layer can take as its bias"
    assert reasons(p, layer, bias)["user/bias"] == refused
    again = p("user/again", relax.op.add(bias, constant(random(4))))
    assert reasons(p, again)["user/again"] == refused


def test_every_operator_gets_a_decision_and_aliases_none() -> None:
    p, x = program(SHAPE)
    parts = p("parts", relax.op.split(conv(p, "conv", x), 2, axis=0))
    mod = p.module(p("part", relax.TupleGetItem(parts, 1)))
    assert list(SelectRegions()(mod)["main"].attrs[REGIONS_ATTR]) == ["conv", "parts"]
    assert names(SelectRegions()(mod)) == names(mod)
