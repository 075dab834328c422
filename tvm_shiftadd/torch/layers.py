"""Convolution, transposed convolution and dense layers whose weights are sums of powers of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tvm_shiftadd.convert.graph import Node
from tvm_shiftadd.convert.plan import LayerPlan
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats import codes
from tvm_shiftadd.torch.activations import Scale, working
from tvm_shiftadd.torch.rounding import along, nearest_terms, power, to_steps

Layer = TypeVar("Layer", bound="_ShiftLayer")


class _ShiftLayer(nn.Module):
    """What the three layers share: a latent float weight and bias, and the integers they make.

    ``output_axis`` is the axis of the weight that the output channels lie on. ``factor`` is the
    factor a channel that a conversion may put behind a layer.
    """

    output_axis = 0
    operator = ""

    def __init__(
        self,
        weight: Tensor,
        weight_exponent: Tensor,
        input_exponent: int,
        bias: Tensor | None = None,
        *,
        terms: int = 2,
    ) -> None:
        super().__init__()
        self.factor: Scale | None = None
        outputs = weight.shape[self.output_axis]
        exponent = torch.as_tensor(weight_exponent, dtype=torch.int32)
        if exponent.shape != (outputs,) or not 1 <= terms <= codes.MAX_TERMS:
            raise InputError(
                f"expected one weight exponent for each of {outputs} outputs and 1 to "
                f"{codes.MAX_TERMS} terms, got {tuple(exponent.shape)} and {terms}; change them"
            )
        self.terms, self.input_exponent = int(terms), int(input_exponent)
        self.weight = nn.Parameter(weight.detach().clone())
        # float64, because an int32 bias does not fit float32.
        zero = torch.zeros(outputs, dtype=torch.float64)
        self.bias = nn.Parameter(zero if bias is None else bias.detach().to(torch.float64).clone())
        self.register_buffer("weight_exponent", exponent)

    @classmethod
    def from_plan(cls: type[Layer], node: Node, plan: LayerPlan, input_exponent: int) -> Layer:
        """The layer that a conversion made.

        node: the layer's node in the converted graph; plan: its integers, ``plan.layers[name]``;
        input_exponent: a of the input's scale, ``plan.exponents[node.inputs[0]]``. Raises
        InputError for a node of another operator.
        """
        if node.op != cls.operator or node.weight is None:
            raise InputError(f"expected a layer of {cls.operator}, got '{node.name}' ({node.op})")
        values = codes.decode(plan.codes).reshape(node.weight.shape)
        exponent = np.asarray(plan.weight_exponent, np.int32)
        weight = cls._from_reference(np.ldexp(values.astype(np.float64), -exponent))
        layer = cls(
            torch.from_numpy(np.ascontiguousarray(weight, np.float32)),
            torch.from_numpy(exponent.copy()),
            input_exponent,
            torch.from_numpy(np.ldexp(plan.bias.astype(np.float64), -(exponent + input_exponent))),
            terms=plan.terms,
            **cls._options(node),
        )
        layer.factor = None if plan.factor is None else Scale.from_plan(plan.factor)
        return layer

    def to_plan(self) -> LayerPlan:
        """The integers of the layer as it is now, for a compiler: the inverse of from_plan."""
        with torch.no_grad():
            exponent = self.weight_exponent.cpu().numpy()
            real = self.quantized_weight().to(torch.float64).cpu().numpy()
            values = np.ldexp(self._to_reference(real), exponent).astype(np.int32)
            bias = to_steps(self.bias, self.accumulator_exponent()).cpu().numpy()
        matrix = values.reshape(-1, values.shape[-1])
        factor = None if self.factor is None else self.factor.to_plan()
        return LayerPlan(codes.encode(matrix, self.terms), exponent, bias.astype(np.int32), factor)

    def accumulator_exponent(self) -> Tensor:
        """e of the accumulator's scale 2^-e, in front of a factor, int32 ``[O]``."""
        return self.weight_exponent + self.input_exponent

    def output_exponent(self) -> Tensor:
        """e of the result's scale 2^-e, int32 ``[O]``."""
        exponent = self.accumulator_exponent()
        return exponent if self.factor is None else exponent + self.factor.exponent

    def quantized_weight(self) -> Tensor:
        """The weight the layer computes with: sums of powers of two, in the layout of weight."""
        step = along(power(self.weight_exponent, self.weight), self.weight.ndim, self.output_axis)
        return nearest_terms(self.weight * step, self.terms) / step

    def quantized_bias(self) -> Tensor:
        """The bias on the accumulator's scale, float64 ``[O]``."""
        exponent = self.accumulator_exponent()
        return to_steps(self.bias, exponent) / power(exponent, self.bias)

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = working(self, x)
        return x, self.quantized_weight().to(x.dtype), self.quantized_bias().to(x.dtype)

    def _finish(self, x: Tensor) -> Tensor:
        return x if self.factor is None else self.factor(x)

    @classmethod
    def _options(cls, node: Node) -> dict[str, Any]:
        return {}

    @staticmethod
    def _from_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        raise NotImplementedError

    @staticmethod
    def _to_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What the module's text says."""
        shape = tuple(self.weight.shape)
        return f"{shape}, terms={self.terms}, input_exponent={self.input_exponent}"


class ShiftConv2d(_ShiftLayer):
    """Convolution: ``[N, I, H, W]`` on the scale 2^-input_exponent to accumulators [N, O, OH, OW].

    weight: ``[O, I/groups, kh, kw]``; weight_exponent: b, int32 ``[O]``; bias: ``[O]``; padding:
    (top, left, bottom, right).
    """

    operator = "conv2d"

    def __init__(
        self,
        weight: Tensor,
        weight_exponent: Tensor,
        input_exponent: int,
        bias: Tensor | None = None,
        *,
        terms: int = 2,
        strides: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__(weight, weight_exponent, input_exponent, bias, terms=terms)
        self.strides, self.padding = tuple(strides), tuple(padding)
        self.dilation, self.groups = tuple(dilation), int(groups)

    def forward(self, x: Tensor) -> Tensor:
        """The accumulators as real numbers; float64 in eval mode."""
        x, weight, bias = self._operands(x)
        top, left, bottom, right = self.padding
        x = nn.functional.pad(x, (left, right, top, bottom))
        return self._finish(
            nn.functional.conv2d(x, weight, bias, self.strides, 0, self.dilation, self.groups)
        )

    @classmethod
    def _options(cls, node: Node) -> dict[str, Any]:
        return {name: node.attrs[name] for name in ("strides", "padding", "dilation", "groups")}

    @staticmethod
    def _from_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return weight.transpose(3, 2, 0, 1)

    @staticmethod
    def _to_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return weight.transpose(2, 3, 1, 0)


class ShiftConvTranspose2d(_ShiftLayer):
    """Transposed convolution, one group; weight: ``[I, O, kh, kw]``, else as ShiftConv2d."""

    operator = "conv2d_transpose"
    output_axis = 1

    def __init__(
        self,
        weight: Tensor,
        weight_exponent: Tensor,
        input_exponent: int,
        bias: Tensor | None = None,
        *,
        terms: int = 2,
        strides: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        output_padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__(weight, weight_exponent, input_exponent, bias, terms=terms)
        self.strides, self.padding = tuple(strides), tuple(padding)
        self.output_padding, self.dilation = tuple(output_padding), tuple(dilation)

    def forward(self, x: Tensor) -> Tensor:
        """The accumulators as real numbers; float64 in eval mode."""
        x, weight, bias = self._operands(x)
        full = nn.functional.conv_transpose2d(
            x, weight, None, self.strides, 0, 0, 1, dilation=self.dilation
        )
        # The output padding lengthens the bottom and the right, the padding cuts all sides.
        top, left, bottom, right = self.padding
        below, beside = self.output_padding
        cut = (-left, beside - right, -top, below - bottom)
        return self._finish(nn.functional.pad(full, cut) + along(bias, full.ndim))

    @classmethod
    def _options(cls, node: Node) -> dict[str, Any]:
        if int(node.attrs.get("groups", 1)) != 1:
            raise InputError(f"layer '{node.name}' has groups, which a transposed layer has not")
        names = ("strides", "padding", "output_padding", "dilation")
        return {name: node.attrs[name] for name in names}

    @staticmethod
    def _from_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return weight.transpose(2, 3, 0, 1)

    @staticmethod
    def _to_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return weight.transpose(2, 3, 0, 1)


class ShiftLinear(_ShiftLayer):
    """Fully connected: ``[..., I]`` on the scale 2^-input_exponent to accumulators ``[..., O]``.

    weight: ``[O, I]``.
    """

    operator = "dense"

    def forward(self, x: Tensor) -> Tensor:
        """The accumulators as real numbers; float64 in eval mode."""
        result = nn.functional.linear(*self._operands(x))
        # A factor lies along axis 1, the outputs along the last one.
        return self._finish(result.reshape(-1, result.shape[-1])).reshape(result.shape)

    @staticmethod
    def _from_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return weight.T

    @staticmethod
    def _to_reference(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return weight.T
