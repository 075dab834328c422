"""What other runtimes are given to run, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tvm_shiftadd.bench.quantize import Feed, fix_shapes, quantize
from tvm_shiftadd.errors import ModelError

if TYPE_CHECKING:
    from tvm_shiftadd.api import Model

Array = NDArray[Any]
#: Runs the network once and gives its outputs in the order of the model.
Run = Callable[[], list[Array]]


@dataclass(frozen=True)
class Prepared:
    """A network in another runtime. ``weight_bytes``: of its constants, as the runtime got them."""

    run: Run
    weight_bytes: int


@dataclass(frozen=True)
class Work:
    """What the peers run: a network, one set of inputs, and a folder for their own models.

    ``model`` is the network's ONNX file, ``network`` the imported float network; each is None
    where it is not known. ``feed`` holds float32 arrays by input name, batch included;
    ``calibration`` such sets.
    """

    model: Path | None
    network: Model | None
    feed: Mapping[str, Array]
    calibration: Sequence[Feed]
    folder: Path

    @cached_property
    def float_model(self) -> Path:
        """The ONNX model with the shapes of ``feed``. ModelError where there is none."""
        if self.model is None:
            raise ModelError(
                "it needs the network as ONNX, which neither an artifact nor a checkpoint holds; "
                "pass --onnx FILE"
            )
        path = self.folder / "float.onnx"
        fix_shapes(self.model, {name: array.shape for name, array in self.feed.items()}, path)
        return path

    @cached_property
    def qdq_model(self) -> Path:
        """The int8 model with pairs of QuantizeLinear and DequantizeLinear."""
        return self._quantized("qdq.onnx", operators=False)

    @cached_property
    def qoperator_model(self) -> Path:
        """The int8 model with onnxruntime's integer operators."""
        return self._quantized("qoperator.onnx", operators=True)

    @property
    def float_network(self) -> Model:
        """The imported network. ModelError where there is none."""
        if self.network is None:
            raise ModelError(
                "it needs the float network, which an artifact does not hold; pass --onnx FILE"
            )
        return self.network

    def _quantized(self, name: str, operators: bool) -> Path:
        quantize(self.float_model, self.folder / name, self.calibration, operators)
        return self.folder / name
