"""Constants become parameters, once each, under names of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from relay_passes.lift_constants import PARAMETERS_ATTR, LiftConstants, constants
from tests.relay_passes.onnx_networks import converted
from tests.relay_passes.programs import Program, constant, names, program, run
from tvm_shiftadd._compat import relax

LIFT = LiftConstants()


def parameters(mod: Any) -> list[str]:
    return [param.name for param in mod["main"].params]


def test_names_say_whose_they_are_and_stand_in_the_order_of_the_layers() -> None:
    network = converted("two_outputs")
    found = constants(network.integer)
    assert list(found) == [
        "features.codes",
        "features.bias",
        "features.factor.codes",
        "features.bias.int8.shift",
        "head.codes",
        "head.bias",
        "head.factor.codes",
        "head.wide.exponent",
    ]
    assert found["head.codes"].dtype == np.uint8
    assert found["head.codes"].shape == (2, 18, 2)
    lifted = LIFT(network.integer)
    assert parameters(lifted) == ["x", *found]
    assert list(lifted["main"].attrs[PARAMETERS_ATTR]) == list(found)
    assert lifted["main"].attrs["num_input"] == 1
    assert constants(lifted) == {}


def test_the_lifted_module_computes_the_same() -> None:
    network = converted("two_outputs")
    weights = constants(network.integer).values()
    lifted = LIFT(network.integer)
    # Told which parameters are data, the target would prepare the others beforehand.
    lifted["main"] = lifted["main"].without_attr("num_input")
    for got, wanted in zip(
        run(lifted, network.images, *weights),
        run(network.integer, network.images),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


def test_single_elements_stay_in_the_code() -> None:
    p, x = program(("N", 2))
    y = p("y", relax.op.add(x, constant([1.0])))
    mod = p.module(p("z", relax.op.add(y, constant([1.0, 2.0]))))
    assert list(constants(mod)) == ["z.arg1"]
    assert parameters(LIFT(mod)) == ["x", "z.arg1"]


def test_one_constant_that_two_read_is_one_parameter() -> None:
    p, x = program(("N", 2))
    shared = constant([1.0, 2.0])
    mod = p.module(p("z", relax.op.add(p("y", relax.op.add(x, shared)), shared)))
    assert parameters(LIFT(mod)) == ["x", "y.arg1"]


def test_constants_of_one_operand_have_names_of_their_own() -> None:
    p, x = program((1, 2))
    a, b = constant([[1.0, 2.0]]), constant([[3.0, 4.0]])
    mod = p.module(p("y", relax.op.concat([a, x, b], axis=0)))
    assert list(constants(mod)) == ["y.arg0", "y.arg0#2"]
    assert parameters(LIFT(mod)) == ["x", "y.arg0", "y.arg0#2"]
    feed = np.zeros((1, 2), np.float32)
    lifted = LIFT(mod)
    lifted["main"] = lifted["main"].without_attr("num_input")
    (got,) = run(lifted, feed, *constants(mod).values())
    assert got.tolist() == [[1, 2], [0, 0], [3, 4]]


def test_names_that_are_taken_are_left_alone() -> None:
    p = Program(**{"y.arg1": ("N", 2)})
    mod = p.module(p("y", relax.op.add(p.inputs[0], constant([1.0, 2.0]))))
    assert list(constants(mod)) == ["y.arg1#2"]
    assert parameters(LIFT(mod)) == ["y.arg1", "y.arg1#2"]
    assert names(LIFT(mod))[0] == "y"
