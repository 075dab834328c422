"""What lowering has read and made so far, and what all operators' lowerings share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vta_ext.compiler.layers import Layer, MatrixTerm, Patches, Tensor, Term
from vta_ext.compiler.operators import Network, Operator, Value
from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.views import View
from vta_ext.config import Config


@dataclass(frozen=True, eq=False)
class Flat:
    """A map read as one vector: ``order`` is HWC or CHW, the last fastest."""

    source: Tensor
    order: str


@dataclass(frozen=True, eq=False)
class Sum:
    """Terms and what is added to them, int64 ``[C]`` modulo 2^32."""

    terms: tuple[Term, ...]
    bias: NDArray[np.int64]


class Lowering:
    """Stored maps, views of them, sums that are not stored, and the layers that make them."""

    def __init__(self, network: Network, config: Config) -> None:
        self.network, self.config = network, config
        self.tensors: dict[str, Tensor] = {}
        self.views: dict[str, View | Flat] = {}
        self.sums: dict[str, Sum] = {}
        self.layers: list[Layer] = []
        self.patches: dict[str, Patches] = {}

    def _input(self, operator: Operator, value: Value) -> None:
        """A tensor that the host makes, as ``operator``, its first reader, sees it."""
        if value.dtype == "int32":
            raise RefusedError(operator.name, "it reads accumulators that the host makes")
        if len(value.shape) not in (1, 3):
            raise RefusedError(operator.name, f"it reads a tensor of shape {list(value.shape)}")
        self._check_type(operator.name, value.dtype)
        self.views[value.name] = View.of(self._tensor(value))

    def _check_type(self, name: str, dtype: str) -> None:
        """Refuse the operator of that name where the machine does not know a type."""
        if dtype == "uint8" and not self.config.has("unsigned-input"):
            raise RefusedError(name, "this machine reads no uint8; quantise to int8")
        if dtype == "int32" and not self.config.has("store-acc"):
            raise RefusedError(name, "its result has 32 bits, of which this machine stores 8")

    def _tensor(self, value: Value) -> Tensor:
        shape = value.shape if len(value.shape) == 3 else (1, 1, *value.shape)
        if len(shape) != 3:
            raise RefusedError(value.name, f"its shape {list(value.shape)} is no map and no vector")
        self._check_type(value.name, value.dtype)
        self.tensors[value.name] = Tensor(value.name, *shape, dtype=value.dtype)
        return self.tensors[value.name]

    def _stored(self, view: View, value: Value) -> Tensor:
        """The tensor of a view; a copy is made of what is only a view so far."""
        if view.whole:
            return view.source
        if value.name not in self.tensors:
            output = self._tensor(value)
            self.layers.append(Layer(value.name, output, (self._copy(view, value.name),)))
        return self.tensors[value.name]

    def _source(self, operator: Operator, index: int = 0) -> Tensor:
        """The stored map that an operator reads."""
        value = operator.inputs[index]
        view = self.views[value.name]
        if isinstance(view, Flat):
            raise RefusedError(operator.name, "it reads a flattened map")
        return self._stored(view, value)

    def _keep(self, operator: Operator, layer: Layer) -> None:
        self.layers.append(layer)
        self.views[operator.output.name] = View.of(layer.output)

    def _linear(self, name: str) -> str:
        """The mode of the matrix unit in which inputs are shifted and added, or multiplied."""
        for mode in ("shift", "multiply"):
            if mode in self.config.gemm_modes:
                return mode
        raise RefusedError(name, "this machine has neither GEMM mode shift nor multiply")

    def _copy(self, view: View, name: str) -> MatrixTerm:
        """A view as it is, by the matrix unit, for the operator of that name."""
        return view.term(np.zeros(1, np.int64), self._linear(name))

    def _need(self, operator: Operator, *operations: str) -> None:
        """Refuse an operator that needs what this machine's ALU does not have."""
        missing = [name for name in operations if name not in self.config.alu_ops]
        if missing:
            raise RefusedError(operator.name, f"this machine's ALU has no operation {missing[0]}")
