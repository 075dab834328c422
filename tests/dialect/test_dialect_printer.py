"""The legible text of a module."""

from __future__ import annotations

import numpy as np

from tvm_shiftadd._compat import TensorType, relax, tirx
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.printer import script


def module() -> object:
    n = tirx.Var("n", "int64")
    x = relax.Var("image", TensorType((n, 8, 8, 3), "int8"))
    codes = relax.const(np.zeros((2, 14, 16), np.uint8))
    zeros = relax.const(np.zeros(16, np.int32))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(
                ops.conv2d(x, codes, zeros, kernel_size=(3, 3), padding=(1, 1, 1, 1)),
                "/layer1/conv",
            )
            y = builder.emit(ops.requantize(y, relax.const(np.array([7], np.int32)), lo=0), "relu")
            z = builder.emit(relax.op.reshape(y, (n, 1024)), "flat")
            pair = builder.emit_output(relax.Tuple([y, z]), "pair")
        builder.emit_func_output(pair)
    return builder.get()


def test_one_line_a_binding_under_the_users_names() -> None:
    assert script(module()) == (
        "func @main(%image : i8[n, 8, 8, 3]) -> (i8[n, 8, 8, 16], i8[n, 1024]) {\n"
        "  %/layer1/conv : i32[n, 8, 8, 16] = shiftadd.conv2d(%image, codes<2x14x16>, bias<16>) "
        "{kernel_size=[3, 3], strides=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], groups=1}\n"
        "  %relu : i8[n, 8, 8, 16] = shiftadd.requantize(%/layer1/conv, shift=7) {lo=0, hi=127}\n"
        "  %flat : i8[n, 1024] = relax.reshape(%relu, [n, 1024])\n"
        "  %pair : (i8[n, 8, 8, 16], i8[n, 1024]) = (%relu, %flat)\n"
        "  return %pair\n"
        "}\n"
    )


def test_adder_layers_and_factors_are_printed_with_their_constants() -> None:
    x = relax.Var("x", TensorType((1, 4, 4, 2), "int8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = relax.const(np.zeros((18, 3), np.int8))
            zeros = relax.const(np.zeros(3, np.int32))
            y = builder.emit(ops.adder_conv2d(x, weight, zeros, kernel_size=(3, 3)), "distance")
            y = builder.emit(
                ops.scale(y, relax.const(np.array([[7, 0, 1], [3, 0, 10]], np.uint8))), "bn"
            )
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    text = script(builder.get())
    assert (
        "%distance : i32[1, 2, 2, 3] = shiftadd.adder_conv2d(%x, weight<18x3>, bias<3>) "
        "{kernel_size=[3, 3], strides=[1, 1], padding=[0, 0, 0, 0]}\n"
    ) in text
    assert "%bn : i32[1, 2, 2, 3] = shiftadd.scale(%distance, codes<2x3>)\n" in text


def test_legalized_module_lists_its_kernels_and_keeps_the_names() -> None:
    text = script(relax.transform.LegalizeOps()(module()))
    assert "%/layer1/conv : i32[n, 8, 8, 16] = relax.call_tir(@shiftadd_conv2d, (%image, " in text
    assert "const<2x14x16 u8>" in text
    assert "\nkernel @shiftadd_conv2d\n" in text


def test_variables_of_one_name_are_told_apart() -> None:
    x = relax.Var("x", TensorType((4,), "int8"))
    y = relax.Var("x", TensorType((4,), "int8"))
    block = relax.BindingBlock([relax.VarBinding(y, ops.clip(x, lo=0, hi=1))])
    function = relax.Function([x], relax.SeqExpr([block], y), TensorType((4,), "int8"))
    import tvm

    text = script(tvm.IRModule({"main": function}))
    assert "%x.1 : i8[4] = shiftadd.clip(%x) {lo=0, hi=1}" in text
    assert "return %x.1" in text
