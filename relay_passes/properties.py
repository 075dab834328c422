"""The properties that passes require and ensure, each with the check that it holds.

A check looks at a module and raises VerificationError naming the operator that breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relay_passes.expressions import (
    bindings,
    constant,
    dtype,
    is_operator,
    op_name,
    operands,
    static_shape,
    variables,
)
from relay_passes.fold_batch_norm import is_inference
from relay_passes.lift_constants import MINIMUM_SIZE, PARAMETERS_ATTR
from relay_passes.select_regions import REGIONS_ATTR
from tvm_shiftadd._compat import ir
from tvm_shiftadd.dialect.registry import is_integer_call
from tvm_shiftadd.errors import VerificationError

Check = Callable[[ir.IRModule], None]

#: What ``ChannelsLast`` moves to NHWC.
CONVOLUTIONS = frozenset(
    {"relax.nn.conv2d", "relax.nn.conv2d_transpose", "shiftadd.float_adder_conv2d"}
)

#: What ``Canonicalize`` spells as reshapes.
RESHAPES = frozenset({"relax.flatten", "relax.squeeze", "relax.expand_dims"})


def check(name: str, mod: ir.IRModule) -> None:
    """Check one property of a module. Raises VerificationError where it does not hold."""
    CHECKS[name](mod)


def _canonical(mod: ir.IRModule) -> None:
    for binding in bindings(mod["main"]):
        name = op_name(binding.value)
        is_relu = name == "relax.nn.relu" and dtype(binding.value) == "float32"
        if is_relu or (name in RESHAPES and static_shape(binding.value)):
            _fail(binding, f"no {name}")


def _float_form(mod: ir.IRModule) -> None:
    for binding in bindings(mod["main"]):
        if is_integer_call(binding.value):
            _fail(binding, "a float module")


def _batch_norm_folded(mod: ir.IRModule) -> None:
    for binding in bindings(mod["main"]):
        if op_name(binding.value) == "relax.nn.batch_norm" and is_inference(binding.value):
            _fail(binding, "no batch norm of constants")


def _channels_last(mod: ir.IRModule) -> None:
    for binding in bindings(mod["main"]):
        call = binding.value
        is_layer = op_name(call) in CONVOLUTIONS
        if not is_layer or constant(call.args[1]) is None:
            continue
        grouped_transpose = op_name(call).endswith("transpose") and int(call.attrs["groups"]) != 1
        if call.attrs["data_layout"] != "NHWC" and not grouped_transpose:
            _fail(binding, "convolutions over NHWC maps")


def _regions_selected(mod: ir.IRModule) -> None:
    reasons = (mod["main"].attrs or {}).get(REGIONS_ATTR)
    for binding in bindings(mod["main"]):
        if is_operator(binding) and (reasons is None or binding.var.name not in reasons):
            _fail(binding, "a decision for every operator")


def _residuals_aligned(mod: ir.IRModule) -> None:
    made_by = {b.var: op_name(b.value) for b in bindings(mod["main"])}
    for binding in bindings(mod["main"]):
        sources = [made_by.get(x) for x in variables(binding.value)]
        if op_name(binding.value) == "relax.add" and sources == ["shiftadd.dequantize"] * 2:
            _fail(binding, "no float addition between integers")


def _requantized(mod: ir.IRModule) -> None:
    made_by = {b.var: b.value for b in bindings(mod["main"])}
    for binding in bindings(mod["main"]):
        if op_name(binding.value) != "shiftadd.quantize":
            continue
        source: Any = made_by.get(binding.value.args[0])
        while op_name(source) == "relax.clip":
            source = made_by.get(source.args[0])
        if op_name(source) == "shiftadd.dequantize":
            _fail(binding, "no way through float between two integers")


def _constants_lifted(mod: ir.IRModule) -> None:
    if PARAMETERS_ATTR not in (mod["main"].attrs or {}):
        raise VerificationError("expected the list of lifted constants, got none; run the pass")
    for binding in bindings(mod["main"]):
        for leaf in operands(binding.value):
            values = constant(leaf)
            if values is not None and values.size >= MINIMUM_SIZE:
                _fail(binding, "no constant array in the code")


def _holds(mod: ir.IRModule) -> None:
    """Nothing to check here: the pass that ensures it is the check."""


def _fail(binding: Any, expected: str) -> None:
    name = op_name(binding.value) or type(binding.value).__name__
    raise VerificationError(f"expected {expected}, got {name} at {binding.var.name}")


CHECKS: dict[str, Check] = {
    "float_form": _float_form,
    "canonical": _canonical,
    "batch_norm_folded": _batch_norm_folded,
    "channels_last": _channels_last,
    "regions_selected": _regions_selected,
    "dialect": _holds,
    "residuals_aligned": _residuals_aligned,
    "requantized": _requantized,
    "multiplier_free": _holds,
    "constants_lifted": _constants_lifted,
}
