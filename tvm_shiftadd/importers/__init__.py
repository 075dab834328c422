"""Read a trained network into a Relax module: float, NCHW, under the names of its own layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.errors import ModelError

if TYPE_CHECKING:
    import tvm

__all__ = ["load"]

#: Shapes for inputs whose shape the model leaves open: by input name, or for the only input.
ShapeOverride = Mapping[str, Sequence[int]] | Sequence[int]


def load(source: Any, *, shape: ShapeOverride | None = None) -> tvm.IRModule:
    """Import a network.

    Args:
        source: path of an ``.onnx`` file, an ``onnx.ModelProto``, or a
            ``torch.export.ExportedProgram``.
        shape: shapes for the inputs, for a model with symbolic dimensions besides the batch; -1
            in axis 0 keeps the batch symbolic. ONNX only.

    Returns:
        A module with one function ``main``: float32 parameters for the real inputs, weights as
        constants, every variable named after the operator of the source that it belongs to. The
        function's attributes say where it came from: ``shiftadd.source`` (format, opset, sha256),
        ``shiftadd.outputs`` (names), ``shiftadd.operators`` (name of a node to its operator) and
        ``shiftadd.notes``.

    Raises:
        ModelError: the model is missing, unreadable, malformed or of a version not handled.
        UnsupportedOperatorError: an operator that cannot run, named with its node.
    """
    if isinstance(source, str | os.PathLike):
        if str(source).endswith((".pt2", ".pt", ".pth")):
            raise ModelError(
                f"'{os.fspath(source)}' is a PyTorch file, and reading one may run code it holds: "
                "load it yourself and pass the torch.export.ExportedProgram, or export to ONNX."
            )
        from tvm_shiftadd.importers.onnx import load_onnx

        return load_onnx(source, shape=shape)

    origin = type(source).__module__.split(".")[0]
    if origin == "torch":
        from tvm_shiftadd.importers.torch import load_exported_program

        return load_exported_program(source)
    if origin == "onnx":
        from tvm_shiftadd.importers.onnx import load_onnx

        return load_onnx(source, shape=shape)
    raise ModelError(
        "Expected the path of an ONNX file, an onnx.ModelProto or a torch.export.ExportedProgram, "
        f"but got {type(source).__name__}."
    )
