"""Small Relax programs written by hand, and how tests compare and run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_shiftadd._compat import TensorType, ir, relax, tirx
from tvm_shiftadd.dialect.printer import script
from tvm_shiftadd.target import parse
from tvm_shiftadd.target.cpu import build

Array = NDArray[Any]
Shape = tuple[int | str, ...]


class Program:
    """``main`` of a module, binding by binding: ``p("conv1", relax.op...)`` returns the variable.

    A dimension that is a string is a symbol; inputs are float32 unless ``dtypes`` says otherwise.
    """

    def __init__(self, dtypes: dict[str, str] | None = None, /, **inputs: Shape) -> None:
        symbols: dict[str, Any] = {}
        self.builder = relax.BlockBuilder()
        self.inputs = []
        for name, shape in inputs.items():
            dims = [
                symbols.setdefault(d, tirx.Var(d, "int64")) if isinstance(d, str) else d
                for d in shape
            ]
            dtype = (dtypes or {}).get(name, "float32")
            self.inputs.append(relax.Var(name, TensorType(dims, dtype)))
        self._bindings: list[tuple[relax.Var, Any]] = []

    def __call__(self, name: str, expr: Any) -> Any:
        expr = self.builder.normalize(expr)
        var = relax.DataflowVar(name, expr.ty)
        self._bindings.append((var, expr))
        return var

    def module(self, *results: Any, attrs: dict[str, Any] | None = None) -> ir.IRModule:
        builder = relax.BlockBuilder()
        with builder.function("main", self.inputs, attrs=attrs or {}):
            with builder.dataflow():
                for var, expr in self._bindings:
                    builder.emit_normalized(relax.VarBinding(var, expr))
                output = builder.emit_output(
                    results[0] if len(results) == 1 else relax.Tuple(results)
                )
            builder.emit_func_output(output)
        return builder.finalize()


def program(shape: Shape = ("N", 4, 8, 8)) -> tuple[Program, Any]:
    """A program with the one input ``x``."""
    p = Program(x=shape)
    return p, p.inputs[0]


def plain(mod: ir.IRModule) -> Any:
    """``main`` without attributes."""
    func = mod["main"]
    for key in dict(func.attrs or {}):
        func = func.without_attr(key)
    return func


def assert_becomes(pass_: Callable[..., Any], before: ir.IRModule, expected: ir.IRModule) -> None:
    """The pass gives the expected program to the last constant, under the expected names."""
    text = script(before)
    after = pass_(before)
    assert script(after) == script(expected)
    ir.assert_structural_equal(plain(after), plain(expected), map_free_vars=True)
    assert script(before) == text, "a pass must not change its input"


def assert_unchanged(pass_: Callable[..., Any], mod: ir.IRModule) -> None:
    assert_becomes(pass_, mod, mod)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def constant(value: Any, dtype: str = "float32") -> Any:
    return relax.const(np.ascontiguousarray(value, dtype=dtype))


def conv2d(x: Any, weight: Array, **attrs: Any) -> Any:
    return relax.op.nn.conv2d(x, constant(weight), **attrs)


def conv2d_last(x: Any, weight: Array, **attrs: Any) -> Any:
    """A convolution on NHWC with the weight given as OIHW."""
    last = weight.transpose(2, 3, 1, 0)
    return conv2d(x, last, data_layout="NHWC", kernel_layout="HWIO", **attrs)


def operators(mod: ir.IRModule) -> list[str]:
    """Operators in order, without ``relax.``; the aliases of the outputs are left out."""
    found = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            op = getattr(binding.value, "op", None)
            if op is not None:
                found.append(str(op.name).removeprefix("relax."))
    return found


def names(mod: ir.IRModule) -> list[str]:
    return [b.var.name for block in mod["main"].body.blocks for b in block.bindings]


def run(mod: ir.IRModule, *arrays: Array) -> list[Array]:
    """The results of the compiled module."""
    machine = relax.VirtualMachine(build(mod, parse("cpu")), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(array) for array in arrays))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [tensor.numpy() for tensor in results]


def assert_same_numbers(
    pass_: Callable[..., Any], mod: ir.IRModule, *arrays: Array, tolerance: float = 1e-5
) -> None:
    """The compiled module gives the same floats before and after the pass."""
    for mine, theirs in zip(run(pass_(mod), *arrays), run(mod, *arrays), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=tolerance * max(np.abs(theirs).max(), 1))
