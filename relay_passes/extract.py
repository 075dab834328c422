"""Read the converter's graph off a module whose regions have been selected.

A layer and its bias become one node. Operators that stay on the host come along as functions on
NumPy arrays, compiled one by one by the target's own pipeline when they are first called, so that
calibration and the integer reference see the very floats that the finished artifact will see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from relay_passes.classify import Match, bias_of, classify
from relay_passes.expressions import (
    bindings,
    constant,
    dtype,
    is_operator,
    op_name,
    static_shape,
    substitute,
    variables,
)
from relay_passes.select_regions import REGIONS_ATTR
from tvm_shiftadd._compat import ir, relax
from tvm_shiftadd.convert.graph import LAYER_OPS, Graph, Node
from tvm_shiftadd.errors import ModelError

#: Builds a module of Relax operators into something ``relax.VirtualMachine`` can load.
Builder = Callable[[ir.IRModule], Any]


def extract_graph(mod: ir.IRModule, build: Builder) -> Graph:
    """The network of ``main`` as the converter sees it.

    Raises ModelError where a network's result is not an array, or where it has several batch axes.
    """
    return _Extraction(mod, build).graph()


class _Extraction:
    def __init__(self, mod: ir.IRModule, build: Builder) -> None:
        self.mod, self.build = mod, build
        self.func = mod["main"]
        self.reasons = {str(k): str(v) for k, v in self.func.attrs[REGIONS_ATTR].items()}
        self.names: dict[Any, str] = {param: param.name for param in self.func.params}
        self.values: dict[Any, Any] = {}
        self.nodes: list[Node] = []
        self.shapes = {p.name: static_shape(p) for p in self.func.params}

    def graph(self) -> Graph:
        ordered = list(bindings(self.func))
        biases = {
            b.value.args[0]: b
            for b in ordered
            if is_operator(b)
            and self.reasons[b.var.name] == ""
            and not isinstance(classify(b.value), Match)
        }
        for binding in ordered:
            self._visit(binding, biases)
        result = self.func.body.body
        value = self.values.get(result, result)
        outputs = list(value.fields) if isinstance(value, relax.Tuple) else [result]
        unknown = [i for i, output in enumerate(outputs) if output not in self.names]
        if unknown:
            fixed = constant(outputs[unknown[0]]) is not None
            kind = "is a constant" if fixed else "has no batch axis"
            raise ModelError(
                f"expected outputs that are arrays with a batch axis, but output "
                f"{self._output_name(unknown[0])} {kind}; remove it from "
                "the model's outputs"
            )
        batch = self._batch()
        return Graph(
            nodes=tuple(self.nodes),
            inputs=tuple(param.name for param in self.func.params),
            outputs=tuple(self.names[x] for x in outputs),
            shapes=self.shapes,
            batch=None if batch < 0 else batch,
        )

    def _output_name(self, index: int) -> str:
        """The name the source gives an output, where the importer has recorded it."""
        names = list((self.func.attrs or {}).get("shiftadd.outputs", ()))
        return f"'{names[index]}'" if index < len(names) else str(index)

    def _batch(self) -> int:
        sizes = {static_shape(p)[0] if static_shape(p) else 0 for p in self.func.params}
        if len(sizes) != 1:
            raise ModelError(
                f"expected inputs with one common batch axis, got leading sizes {sorted(sizes)}; "
                "give the shapes explicitly"
            )
        return sizes.pop()

    def _visit(self, binding: relax.VarBinding, biases: dict[Any, Any]) -> None:
        var, value = binding.var, binding.value
        if value in self.names:
            self.names[var] = self.names[value]
            return
        if isinstance(value, (relax.Var, relax.Tuple)) or not static_shape(var):
            # Tuples, and numbers without a batch axis, are computed within whatever reads them.
            self.values[var] = self._inline(value)
            return
        self.names[var] = var.name
        self.shapes[var.name] = static_shape(var)
        inside = is_operator(binding) and self.reasons[var.name] == ""
        match = classify(value) if inside else None
        if match is None:
            self._host(var, value)
        elif isinstance(match, Match):
            self._region(var, match, biases.get(var))

    def _region(self, var: relax.Var, match: Match, bias: Any) -> None:
        output, values = var.name, None
        if match.op in LAYER_OPS and bias is not None:
            output, values = bias.var.name, bias_of(bias.value)
            del self.shapes[var.name]
        inputs = tuple(self.names[x] for x in match.inputs)
        self.nodes.append(
            Node(
                var.name, match.op, inputs, output, match.attrs, match.weight, values, match.factor
            )
        )

    def _host(self, var: relax.Var, value: Any) -> None:
        reason = self._reason(var, value)
        value = self._inline(value)
        reads = list(dict.fromkeys(variables(value)))
        inner = value.tuple_value if isinstance(value, relax.TupleGetItem) else value
        self.nodes.append(
            Node(
                name=var.name,
                op="host",
                inputs=tuple(self.names[x] for x in reads),
                output=var.name,
                attrs={"operator": op_name(inner) or type(inner).__name__},
                evaluate=HostFunction(self.mod, value, reads, self.build),
                reason=reason,
            )
        )

    def _reason(self, var: relax.Var, value: Any) -> str:
        """Why an operator stays on the host; an item of a tuple, why the one that made it does."""
        maker = value.tuple_value if isinstance(value, relax.TupleGetItem) else var
        return self.reasons.get(maker.name, "")

    def _inline(self, value: Any) -> Any:
        """An expression with all that it reads and that has no name of its own written out."""
        return substitute(value, {x: self.values.get(x, x) for x in variables(value)})


class HostFunction:
    """A float operator of the module as a function on NumPy arrays, compiled at its first call."""

    def __init__(self, mod: ir.IRModule, value: Any, reads: list[Any], build: Builder) -> None:
        self._mod, self._value, self._reads, self._build = mod, value, reads, build
        self._run: Any = None

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        """Run the operator on its inputs, in the order in which it reads them."""
        if self._run is None:
            self._run = self._compile()
        # The converter keeps every tensor as float32, an index or a condition too.
        tensors = [
            tvm.runtime.tensor(np.ascontiguousarray(array, dtype=dtype(var)))
            for array, var in zip(arrays, self._reads, strict=True)
        ]
        result: NDArray[Any] = self._run["main"](*tensors).numpy()
        return result

    def _compile(self) -> Any:
        builder = relax.BlockBuilder()
        params = [relax.Var(f"x{i}", var.ty) for i, var in enumerate(self._reads)]
        renamed = dict(zip(self._reads, params, strict=True))
        with builder.function("main", params):
            with builder.dataflow():
                value = builder.emit(substitute(self._value, renamed))
                output = builder.emit_output(value)
            builder.emit_func_output(output)
        main = builder.finalize()["main"]
        functions = {g: f for g, f in self._mod.functions.items() if g.name_hint != "main"}
        mod = ir.IRModule(functions)
        mod["main"] = main.with_attr("global_symbol", "main")
        mod = relax.transform.DeadCodeElimination(["main"])(mod)
        return relax.VirtualMachine(self._build(mod), tvm.cpu())
