"""A checkpoint's weights in an architecture that the caller gives as a ``torch.nn.Module``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from tvm_shiftadd._compat import ir
from tvm_shiftadd.errors import ModelError
from tvm_shiftadd.importers._checkpoint_weights import BatchNorm, Layer, Network
from tvm_shiftadd.importers._common import first_line, import_torch


def fill_module(architecture: Any, network: Network, shape: Sequence[int] | None) -> ir.IRModule:
    """Import ``architecture`` with the weights of a checkpoint in its layers.

    Args:
        architecture: a ``torch.nn.Module`` of plain float layers (``Conv2d``, ``Linear``,
            ``BatchNorm2d``) at the paths that the checkpoint's keys name; it is not changed.
        network: the checkpoint's layers.
        shape: the input's shape, batch first, -1 for an open batch.

    Raises:
        ModelError: not a module, no shape, or layers that are not those of the checkpoint.
        DependencyError: PyTorch is not installed.
    """
    torch = import_torch("import an architecture")
    from tvm_shiftadd.importers.torch import load_exported_program

    if not isinstance(architecture, torch.nn.Module):
        raise ModelError(
            f"Expected architecture to be a torch.nn.Module, but got {type(architecture).__name__}."
        )
    if shape is None:
        raise ModelError(
            "An architecture needs the shape of its input: pass shape=(-1, 3, 32, 32) or the like."
        )
    module = copy.deepcopy(architecture).eval()
    _fill(module, network, torch)
    dims = [int(dim) for dim in shape]
    # A batch of one would be taken for a constant.
    example = torch.zeros([2 if dims[0] == -1 else dims[0], *dims[1:]])
    dynamic = ({0: torch.export.Dim("N")},) if dims[0] == -1 else None
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic)
    except Exception as error:
        raise ModelError(
            f"The architecture cannot be exported for an input of shape {dims}: {first_line(error)}"
        ) from error
    return load_exported_program(program)


def _fill(module: Any, network: Network, torch: Any) -> None:
    paths = dict(module.named_modules())
    # A tensor kept in another place than a layer would stay as it was initialised.
    for name, _ in (*module.named_parameters(), *module.named_buffers()):
        path = name.rpartition(".")[0]
        if path not in network.layers:
            raise ModelError(
                f"The architecture has the weight '{name}', but the checkpoint has no layer "
                f"'{path}': give the module that the checkpoint was trained with."
            )
    for path, layer in network.layers.items():
        if path not in paths:
            raise ModelError(
                f"The checkpoint has a layer '{path}', but the architecture has none of that "
                "name: give the module that the checkpoint was trained with."
            )
        _fill_layer(paths[path], path, layer, torch)


def _fill_layer(target: Any, path: str, layer: Layer | BatchNorm, torch: Any) -> None:
    if isinstance(layer, BatchNorm):
        values = {
            "weight": layer.gamma,
            "bias": layer.beta,
            "running_mean": layer.mean,
            "running_var": layer.variance,
        }
    else:
        values = {"adder" if layer.operator == "adder2d" else "weight": layer.weight}
        if layer.bias is not None:
            values["bias"] = layer.bias
    own = {
        **dict(target.named_parameters(recurse=False)),
        **dict(target.named_buffers(recurse=False)),
    }
    own.pop("num_batches_tracked", None)
    shapes = {name: list(tensor.shape) for name, tensor in own.items()}
    wanted = {name: list(array.shape) for name, array in values.items()}
    if isinstance(layer, BatchNorm) and not shapes.keys() & {"weight", "bias"}:
        wanted = {name: size for name, size in wanted.items() if name.startswith("running")}
    if shapes != wanted:
        raise ModelError(
            f"Layer '{path}' of the architecture is a {type(target).__name__} with {shapes}, but "
            f"the checkpoint has {wanted}: give the module that it was trained with, in plain "
            "float layers."
        )
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(torch.from_numpy(values[name]))
    clip = None if isinstance(layer, BatchNorm) else layer.clip
    if clip is not None:
        limit = clip
        target.register_forward_pre_hook(lambda _, args: (args[0].clamp(0.0, limit),))
