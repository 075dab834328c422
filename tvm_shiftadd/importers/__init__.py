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


def load(
    source: Any,
    *,
    shape: ShapeOverride | None = None,
    architecture: Any = None,
    weights: str | None = None,
) -> tvm.IRModule:
    """Import a network.

    Args:
        source: path of an ``.onnx`` file or of a checkpoint (``.pth``, ``.pt``, ``.pth.tar``,
            ``.th``, ``.safetensors``), an ``onnx.ModelProto``, or a
            ``torch.export.ExportedProgram``.
        shape: shapes for the inputs, for a model with symbolic dimensions besides the batch and
            for checkpoints; -1 in axis 0 keeps the batch symbolic.
        architecture: for a checkpoint, the ``torch.nn.Module`` it belongs to; None to recognise
            a residual network by the keys.
        weights: for a checkpoint, how its weights are to be read where the keys do not tell:
            ``deepshift-q``, ``apot-2`` to ``apot-5``.

    Returns:
        A module with one function ``main``: float32 parameters for the real inputs, weights as
        constants, every variable named after the operator of the source that it belongs to. The
        function's attributes say where it came from: ``shiftadd.source`` (format, opset, sha256),
        ``shiftadd.outputs`` (names), ``shiftadd.operators`` (name of a node to its operator) and
        ``shiftadd.notes``.

    Raises:
        ModelError: the model is missing, unreadable, malformed or of a version not handled.
        UnsupportedOperatorError: an operator that cannot run, named with its node.
        DependencyError: PyTorch is needed and not installed.
    """
    if isinstance(source, str | os.PathLike):
        if str(source).endswith(".pt2"):
            raise ModelError(
                f"'{os.fspath(source)}' is an exported program, and reading one may run code it "
                "holds: load it yourself and pass the torch.export.ExportedProgram."
            )
        from tvm_shiftadd.importers._checkpoint_reader import is_checkpoint

        if is_checkpoint(source):
            from tvm_shiftadd.importers.checkpoint import load_checkpoint

            return load_checkpoint(source, shape=shape, architecture=architecture, weights=weights)
    if architecture is not None or weights is not None:
        raise ModelError(
            "Expected the path of a checkpoint beside architecture= or weights=, but got "
            f"{source if isinstance(source, str) else type(source).__name__}."
        )
    if isinstance(source, str | os.PathLike):
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
        "Expected the path of an ONNX file or a checkpoint, an onnx.ModelProto or a "
        f"torch.export.ExportedProgram, but got {type(source).__name__}."
    )
