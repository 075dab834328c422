"""AdderNet's layers on integers: minus sums of absolute differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.plan import AdderPlan
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.adder import fold_weight
from tvm_shiftadd.torch.activations import Scale, working
from tvm_shiftadd.torch.rounding import power, to_steps

Layer = TypeVar("Layer", bound="_AdderLayer")


class _AdderLayer(nn.Module):
    """A latent float weight ``[O, ...]`` and bias, rounded to the input's scale.

    A rounded weight may lie beyond int8: :meth:`integers` folds what does into the bias, which
    changes no result. ``factor`` is the factor a channel that a conversion may put behind a layer.
    """

    operator = ""

    def __init__(self, adder: Tensor, input_exponent: int, bias: Tensor | None = None) -> None:
        super().__init__()
        self.factor: Scale | None = None
        outputs = adder.shape[0]
        if bias is not None and bias.shape != (outputs,):
            raise InputError(
                f"expected a bias of {outputs} values, got {tuple(bias.shape)}; give one an output"
            )
        self.input_exponent = int(input_exponent)
        self.adder = nn.Parameter(adder.detach().clone())
        zero = torch.zeros(outputs, dtype=torch.float64)
        self.bias = nn.Parameter(zero if bias is None else bias.detach().to(torch.float64).clone())

    @classmethod
    def from_plan(cls: type[Layer], node: Node, plan: AdderPlan, input_exponent: int) -> Layer:
        """The layer that a conversion made.

        node: the layer's node in the converted graph; plan: its integers, ``plan.adders[name]``;
        input_exponent: a of the input's scale. Raises InputError for a node of another operator.
        """
        if node.op != cls.operator or node.weight is None:
            raise InputError(f"expected a layer of {cls.operator}, got '{node.name}' ({node.op})")
        real = np.ldexp(plan.weight.astype(np.float32), -input_exponent).reshape(node.weight.shape)
        real = real.transpose(3, 2, 0, 1) if real.ndim == 4 else real.T
        bias = np.ldexp(plan.bias.astype(np.float64), -input_exponent)
        layer = cls(
            torch.from_numpy(np.ascontiguousarray(real)),
            input_exponent,
            torch.from_numpy(bias),
            **cls._options(node),
        )
        layer.factor = None if plan.factor is None else Scale.from_plan(plan.factor)
        return layer

    def to_plan(self) -> AdderPlan:
        """The integers of the layer as it is now, for a compiler: the inverse of from_plan."""
        weight, bias = self.integers()
        return AdderPlan(weight, bias, None if self.factor is None else self.factor.to_plan())

    def _finish(self, x: Tensor) -> Tensor:
        return x if self.factor is None else self.factor(x)

    @classmethod
    def _options(cls, node: Node) -> dict[str, Any]:
        return {}

    def _rounded(self, values: Tensor) -> Tensor:
        return to_steps(values, self.input_exponent) / power(self.input_exponent, values)

    def _distances(self, rows: Tensor) -> Tensor:
        """Rows ``[N, L, R]`` against the weight ``[O, R]``: ``[N, L, O]``, the bias added."""
        rows = working(self, rows)
        weight = self._rounded(self.adder).to(rows.dtype).flatten(1)
        distances = torch.cdist(rows, weight.expand(rows.shape[0], -1, -1), p=1.0)
        return self._rounded(self.bias).to(rows.dtype) - distances

    def integers(self) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """int8 weights ``[R, O]``, R in the order (kh, kw, input), and the int32 bias ``[O]``."""
        with torch.no_grad():
            steps = to_steps(self.adder, self.input_exponent).cpu().numpy().astype(np.int64)
            bias = to_steps(self.bias, self.input_exponent).cpu().numpy().astype(np.int64)
        steps = steps.transpose(2, 3, 1, 0) if steps.ndim == 4 else steps.T
        weight, offset = fold_weight(steps.reshape(-1, steps.shape[-1]))
        return weight, (bias + offset).astype(np.int32)

    def extra_repr(self) -> str:
        """What the module's text says."""
        return f"{tuple(self.adder.shape)}, input_exponent={self.input_exponent}"


class AdderConv2d(_AdderLayer):
    """``bias - sum over the window of |x - w|``: ``[N, I, H, W]`` to accumulators [N, O, OH, OW].

    adder: the weight, ``[O, I, kh, kw]``; padding: (top, left, bottom, right), zeros that take
    part. Input, weight and result are on the scale 2^-input_exponent.
    """

    operator = "adder_conv2d"

    def __init__(
        self,
        adder: Tensor,
        input_exponent: int,
        bias: Tensor | None = None,
        *,
        strides: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        super().__init__(adder, input_exponent, bias)
        self.strides, self.padding = tuple(strides), tuple(padding)

    def forward(self, x: Tensor) -> Tensor:
        """The accumulators as real numbers; float64 in eval mode."""
        top, left, bottom, right = self.padding
        x = nn.functional.pad(x, (left, right, top, bottom))
        kernel = self.adder.shape[2:]
        height = (x.shape[2] - kernel[0]) // self.strides[0] + 1
        width = (x.shape[3] - kernel[1]) // self.strides[1] + 1
        windows = nn.functional.unfold(x, kernel, stride=self.strides).transpose(1, 2)
        result = self._distances(windows).transpose(1, 2)
        return self._finish(result.reshape(x.shape[0], -1, height, width))

    @classmethod
    def _options(cls, node: Node) -> dict[str, Any]:
        return {name: node.attrs[name] for name in ("strides", "padding")}


class AdderLinear(_AdderLayer):
    """``bias - sum over i of |x - w|``: ``[N, I]`` to accumulators ``[N, O]``.

    adder: the weight, ``[O, I]``.
    """

    operator = "adder_dense"

    def forward(self, x: Tensor) -> Tensor:
        """The accumulators as real numbers; float64 in eval mode."""
        return self._finish(self._distances(x[None])[0])
