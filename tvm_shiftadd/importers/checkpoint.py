"""Checkpoints of float and shift-add networks: weights without a program to run them.

The program is given by the caller as a small ``torch.nn.Module``, or recognised from the keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tvm_shiftadd._compat import ir
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers._checkpoint_reader import is_checkpoint, read_checkpoint
from tvm_shiftadd.importers._checkpoint_resnet import build_resnet
from tvm_shiftadd.importers._checkpoint_weights import interpret
from tvm_shiftadd.importers._common import one_line_errors

__all__ = ["is_checkpoint", "load_checkpoint"]


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    shape: Mapping[str, Sequence[int]] | Sequence[int] | None = None,
    architecture: Any = None,
    weights: str | None = None,
) -> ir.IRModule:
    """Import a checkpoint; see :func:`tvm_shiftadd.importers.load`.

    Args:
        path: a file with one of the endings of ``_checkpoint_reader.SUFFIXES``.
        shape: the input's shape, batch first, -1 for an open batch.
        architecture: a ``torch.nn.Module`` in plain float layers whose state dict has the keys
            of the checkpoint; None to recognise it. Needs ``shape``.
        weights: how the weights are to be read, where the keys do not tell: ``deepshift-q`` or
            ``apot-2`` to ``apot-5``; ``float`` takes them as they are.

    Raises:
        ModelError: the file is unusable, or its layers are those of no known network.
        DependencyError: PyTorch is needed and not installed.
    """
    checkpoint = read_checkpoint(path)
    with one_line_errors(checkpoint.label):
        network = interpret(checkpoint.tensors, weights)
        dims = _single(shape)
        if architecture is None:
            module = build_resnet(network, dims, checkpoint.label)
        else:
            from tvm_shiftadd.importers._checkpoint_module import fill_module

            module = fill_module(architecture, network, dims)
    source = {"format": network.form, "opset": "", "sha256": checkpoint.sha256}
    notes = [*network.notes, *map(str, (module["main"].attrs or {}).get("shiftadd.notes", ()))]
    module["main"] = module["main"].with_attrs({"shiftadd.source": source, "shiftadd.notes": notes})
    return module


def _single(shape: Mapping[str, Sequence[int]] | Sequence[int] | None) -> Sequence[int] | None:
    if not isinstance(shape, Mapping):
        return shape
    if len(shape) != 1:
        raise ModelError(f"A checkpoint's network has one input, but {len(shape)} shapes came.")
    return next(iter(shape.values()))
