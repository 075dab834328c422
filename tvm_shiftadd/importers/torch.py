"""torch.export to Relax: TVM's front end, with own converters for the layers that have weights.

The program is imported as exported, without PyTorch's decompositions, so that a linear layer and
a batch norm are still recognisable. Names are those of the modules (``layer1.0.conv1``); an
operator written in a module's own ``forward`` is ``<module>.<operator>``.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tvm_shiftadd._compat import ir, relax
from tvm_shiftadd.errors import ModelError, ShiftAddError
from tvm_shiftadd.importers._common import (
    closed_on_error,
    import_torch,
    one_line_errors,
    tvm_reason,
    unsupported,
)
from tvm_shiftadd.importers._torch_layers import TORCH_CONVERTERS, Converter
from tvm_shiftadd.importers.naming import name_variables

#: The parts of an operator may be unknown in turn; deeper nesting than this has not been seen.
_DECOMPOSITION_ROUNDS = 4


def load_exported_program(program: Any) -> ir.IRModule:
    """Import a ``torch.export.ExportedProgram``; see :func:`tvm_shiftadd.importers.load`.

    Raises:
        ModelError: not an exported program, inputs that are not float32 tensors, bad weights.
        UnsupportedOperatorError: an operator that TVM cannot import either.
        DependencyError: PyTorch is not installed.
    """
    torch = import_torch("import an exported program")
    if not isinstance(program, torch.export.ExportedProgram):
        raise ModelError(
            f"Expected a torch.export.ExportedProgram, but got {type(program).__name__}: call "
            "torch.export.export(model, example_inputs) first."
        )
    tensors = _weights(program)
    outputs = _check_signature(program, torch)
    importer = _Importer(tensors)
    program = _decompose_unknown(program, importer.convert_map, torch)
    with (
        one_line_errors("The exported program"),
        warnings.catch_warnings(),
        closed_on_error(lambda: importer.block_builder),
    ):
        warnings.simplefilter("ignore")
        module = importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=len(outputs) == 1,
            no_bind_return_tuple=len(outputs) > 1,
            custom_convert_map=None,
        )
    module = name_variables(module, importer.names)
    attributes = {
        "shiftadd.source": {
            "format": "torch",
            "opset": str(torch.__version__),
            "sha256": _digest(program, tensors),
        },
        "shiftadd.outputs": outputs,
        "shiftadd.operators": importer.operators,
        "shiftadd.notes": [],
    }
    module["main"] = module["main"].with_attrs(attributes)
    return module


def _weights(program: Any) -> dict[str, NDArray[Any]]:
    """Every parameter, buffer and constant as an array, by the name of its placeholder."""
    stored = {**program.state_dict, **program.constants}
    tensors: dict[str, NDArray[Any]] = {}
    for spec in program.graph_signature.input_specs:
        if spec.target is None or spec.target not in stored:
            continue
        tensor = stored[spec.target].detach().cpu()
        values = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        if not np.isfinite(values).all():
            what = "NaN" if np.isnan(values).any() else "infinite values"
            raise ModelError(
                f"Tensor '{spec.target}' holds {what}: expected finite weights; export the model "
                "again from a sound checkpoint."
            )
        tensors[spec.arg.name] = values
    return tensors


def _check_signature(program: Any, torch: Any) -> list[str]:
    """Check the inputs; return the names of the outputs."""
    inputs = set(program.graph_signature.user_inputs)
    if not inputs:
        raise ModelError("The exported program has no inputs: expected at least one tensor.")
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in inputs:
            continue
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            got = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
            raise ModelError(f"Expected float32 inputs, but input '{node.name}' is {got}.")
        for axis, size in enumerate(value.shape[1:], start=1):
            if isinstance(size, torch.SymInt):
                raise ModelError(
                    f"Input '{node.name}' leaves axis {axis} open ('{size}') besides the batch: "
                    "export it with only the batch dynamic."
                )
    return [str(name) for name in program.graph_signature.user_outputs]


def _decompose_unknown(program: Any, known: Mapping[str, Any], torch: Any) -> Any:
    """Break up operators that nobody converts, and only those, where PyTorch knows how."""
    for _ in range(_DECOMPOSITION_ROUNDS):
        unknown = {
            node.target
            for node in program.graph.nodes
            if node.op == "call_function" and node.target.__name__ not in known
        }
        rules = torch.export.default_decompositions() if unknown else {}
        table = {target: rules[target] for target in unknown if target in rules}
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def _digest(program: Any, tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the graph's text and of the weights: a program has no file of its own."""
    digest = hashlib.sha256(str(program.graph).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


class _Importer(ExportedProgramImporter):
    """TVM's importer, told which variable belongs to which module."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.tensors = tensors
        self.names: dict[str, str] = {}
        self.operators: dict[str, str] = {}
        originals: dict[str, Callable[[Any], Any]] = self.create_convert_map()
        originals.setdefault("_unsafe_view.default", originals["view.default"])
        self.convert_map = {
            target: self._named(TORCH_CONVERTERS.get(target), originals.get(target))
            for target in (*originals, *TORCH_CONVERTERS)
        }

    def _named(
        self, own: Converter | None, original: Callable[[Any], Any] | None
    ) -> Callable[[Any], Any]:
        def convert(node: Any) -> Any:
            name = _module_name(node)
            try:
                result = own(self, node, name) if own is not None else None
                if result is None:
                    if original is None:
                        raise unsupported(str(node.target), name, "its weight is not constant")
                    result = original(node)
            except ShiftAddError:
                raise
            except Exception as error:  # TVM's converters raise what they like
                raise unsupported(str(node.target), name, tvm_reason(error)) from error
            if isinstance(result, relax.Var) and result.name not in self.names:
                if any(result is value for value in self.env.values()):
                    return result
                self.names[result.name] = name
            self.operators.setdefault(name, _operator(node))
            return result

        return convert

    def _check_unsupported_func_type(self, nodes: Any) -> None:
        for node in nodes:
            if node.op == "call_function" and node.target.__name__ not in self.convert_map:
                raise unsupported(
                    str(node.target), _module_name(node), "neither this project nor TVM knows it"
                )

    def emit(self, expr: relax.Expr, name: str) -> relax.Var:
        """Bind ``expr`` under ``name``."""
        var = self.block_builder.emit(expr)
        self.names[var.name] = name
        return var

    def constant(self, argument: Any) -> NDArray[Any] | None:
        """The value of an argument that is a weight, else None."""
        return self.tensors.get(getattr(argument, "name", ""))


def _operator(node: Any) -> str:
    """``conv2d`` of ``aten.conv2d.default``."""
    return str(node.target.__name__).split(".")[0]


def _module_name(node: Any) -> str:
    """The path of the module an operator comes from; with the operator where it is not a layer."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    is_layer = kind.startswith("torch.nn.modules.") and ".container." not in kind
    if path and is_layer:
        return str(path)
    return f"{path}.{_operator(node)}" if path else _operator(node)
