"""What a converter is given: one ONNX node with its inputs already in Relax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tvm_shiftadd._compat import GenericConst, TensorType, relax, tirx
from tvm_shiftadd.errors import UnsupportedOperatorError
from tvm_shiftadd.importers._common import unsupported


@dataclass
class OnnxNode:
    """One node on its way into Relax.

    ``inputs`` holds an expression for each input, None where an optional one is left out.
    ``emit`` binds an operator that is not the node's last; the last one is returned by the
    converter and bound by the importer under ``name`` + ``result_suffix``.
    """

    op_type: str
    name: str
    opset: int
    inputs: list[relax.Expr | None]
    attrs: dict[str, Any]
    builder: relax.BlockBuilder
    bind: Callable[[relax.Expr, str], relax.Var]
    notes: list[str]
    outputs: Sequence[str] = ()
    result_suffix: str = field(default="", init=False)

    def emit(self, expr: relax.Expr, suffix: str = "") -> relax.Var:
        """Bind ``expr`` to a variable named after the node."""
        return self.bind(expr, self.name + suffix)

    def input(self, index: int) -> relax.Expr | None:
        """An input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> NDArray[Any] | None:
        """The value of an input that is constant, else None."""
        expr = self.input(index)
        return expr.value.numpy() if isinstance(expr, GenericConst) else None

    def is_left_out(self, index: int) -> bool:
        """Whether an optional input is absent or empty."""
        value = self.constant(index)
        return self.input(index) is None or (value is not None and value.size == 0)

    def integers(self, key: str, default: Sequence[int]) -> list[int]:
        """A list attribute of integers."""
        return [int(value) for value in self.attrs.get(key, default)]

    def text(self, key: str, default: str) -> str:
        """A string attribute."""
        value = self.attrs.get(key, default)
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)

    def shape(self, index: int = 0) -> list[Any]:
        """An input's dimensions: int where static, else an expression. Raises if unknown."""
        expr = self.inputs[index]
        ty = expr.ty if expr is not None else None
        if not isinstance(ty, TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
            raise self.unsupported("the shape of its input is not known")
        return [int(dim) if isinstance(dim, tirx.IntImm) else dim for dim in ty.shape.values]

    def is_tensor(self, index: int) -> bool:
        """Whether an input is a computed tensor: not a constant, not a shape."""
        expr = self.input(index)
        if expr is None or isinstance(expr, GenericConst):
            return False
        return isinstance(expr.ty, TensorType)

    def is_2d(self, index: int = 0) -> bool:
        """Whether an input is a batch of maps: four axes."""
        expr = self.input(index)
        return expr is not None and getattr(expr.ty, "ndim", -1) == 4

    def unsupported(self, reason: str) -> UnsupportedOperatorError:
        """The error for a case of this operator that nothing here can run."""
        return unsupported(self.op_type, self.name, reason)


def spatial_padding(
    node: OnnxNode, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The padding of a convolution or pooling as (top, left, bottom, right), elements.

    ``auto_pad`` is resolved by the formula of the ONNX operator specification.
    """
    mode = node.text("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return node.integers("pads", [0, 0, 0, 0])
    if mode == "VALID":
        return [0, 0, 0, 0]
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.unsupported(f"auto_pad '{mode}' is not one of the specification's")
    before, after = [], []
    for size, k, stride, dilation in zip(node.shape()[2:], kernel, strides, dilations, strict=True):
        if not isinstance(size, int):
            raise node.unsupported("auto_pad needs a static height and width")
        total = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before + after
