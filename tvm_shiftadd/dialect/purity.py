"""The search for multiplications of data in TensorIR: what makes a region "multiplier-free".

Data is what a buffer holds. Loop variables, shapes and constants are no data, and neither is what
only says where to load or store (indices, loop bounds, block bindings): multiplications there are
addressing, and a variable is data only where it is used as such. A quotient or remainder counts
as a multiplication; so does an operation by a constant. A call counts unless it is known to be
free of multiplication: code that cannot be seen into is not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from tvm_shiftadd._compat import (
    Op,
    TensorLoad,
    fields,
    handle,
    ir,
    llvm_intrinsic_name,
    tirx,
)

_MULTIPLYING = (tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)

#: Fields that hold addressing, types or remarks, never a computation on data.
_SKIPPED_FIELDS = frozenset(
    {
        "span",
        "ty",
        "ty_args",
        "annotations",
        "indices",
        "iter_vars",
        "iter_values",
        "predicate",
        "reads",
        "writes",
        "alloc_buffers",
        "match_buffers",
        "buffer",
        "loop_var",
        "min",
        "extent",
        "step",
        "thread_binding",
    }
)

#: Operators that neither multiply nor divide what they are given.
_ALLOWED_CALLS = frozenset(
    {
        "prim.if_then_else",
        "prim.likely",
        "prim.clz",
        "prim.ceil",
        "prim.vscale",
        "tirx.address_of",
        "tirx.assume",
        "tirx.buffer_data",
        "tirx.ceil",
        "tirx.copysign",
        "tirx.cuda.cta_sync",
        "tirx.cuda.ldg",
        "tirx.fabs",
        "tirx.floor",
        "tirx.get_active_lane_mask",
        "tirx.isfinite",
        "tirx.isinf",
        "tirx.isnan",
        "tirx.masked_load",
        "tirx.masked_store",
        "tirx.nearbyint",
        "tirx.popcount",
        "tirx.prefetch",
        "tirx.reinterpret",
        "tirx.round",
        "tirx.trunc",
        "tirx.tvm_access_ptr",
        "tirx.tvm_storage_sync",
        "tirx.tvm_warp_shuffle",
        "tirx.tvm_warp_shuffle_down",
        "tirx.tvm_warp_shuffle_up",
        "tirx.undef",
        "tirx.vectorcombine",
        "tirx.vectorhigh",
        "tirx.vectorlow",
    }
)

_LLVM_CALLS = frozenset({"tirx.call_llvm_intrin", "tirx.call_llvm_pure_intrin"})

#: LLVM intrinsics that move, shift, select, compare, add or round.
_LLVM_ALLOWED = re.compile(
    r"[._](?:v?perm\w*|pternlog\w*|ps[lr][la]\w*|v?psh[lr]\w*|pshuf\w*|fsh[lr]|p?abs|padd\w*|psub\w*"
    r"|[su]?(?:min|max)|[su](?:add|sub|shl)|pm(?:in|ax)\w*|pack\w*|expand|compress|masked|vector"
    r"|ctpop|ctlz|cttz|bswap|bitreverse|nearbyint|rint)(?:[._]|$)"
)
_LLVM_REFUSED = re.compile(r"mul|fma|madd|maddubs|dot|dpb|dpw|mmla|div|rem")

#: Statements that bring in code from elsewhere.
_FOREIGN_PRAGMAS = ("pragma_import_llvm", "pragma_import_c")


def multiplications(prim_func: Any) -> list[str]:
    """Every multiplication of data in a TensorIR function, as text.

    An entry reads ``block: expression``. Empty means that the function is free of them.
    """
    walker = _Walker()
    walker.visit(prim_func.body)
    return list((walker.found | walker.calls).values())


class _Walker:
    """Walks statements and expressions of the computation, not of addresses.

    Expressions are graphs with shared parts, and a variable may be bound to an address as well as
    to data. What is found in an expression is therefore kept with it, and counts where the
    expression, or the variable it is bound to, is used as data.
    """

    def __init__(self) -> None:
        #: Multiplications by node, of what is being walked.
        self.found: dict[int, str] = {}
        #: Calls that are not trusted; they run whether or not their value is used.
        self.calls: dict[int, str] = {}
        self._block = "root"
        self._known: dict[int, tuple[bool, dict[int, str]]] = {}
        self._bound: dict[int, tuple[bool, dict[int, str]]] = {}

    def visit(self, node: Any) -> bool:
        """Collect what is found below ``node``; returns whether its value depends on data."""
        if isinstance(node, (list, tuple)) or type(node).__name__ == "Array":
            return self._visit_all(node)
        if hasattr(node, "name_hint") and hasattr(node, "body"):
            return self._visit_block(node)
        if not isinstance(node, (ir.Expr, tirx.Stmt)):
            return False
        key = handle(node)
        if key not in self._known:
            self._known[key] = self._collect(self._visit_node, node)
        on_data, found = self._known[key]
        self.found |= found
        return on_data

    def _collect(self, visit: Callable[[Any], bool], node: Any) -> tuple[bool, dict[int, str]]:
        outer, self.found = self.found, {}
        on_data = visit(node)
        found, self.found = self.found, outer
        return on_data, found

    def _visit_block(self, block: Any) -> bool:
        outer, self._block = self._block, str(block.name_hint)
        self._visit_fields(block)
        self._block = outer
        return False

    def _visit_node(self, node: Any) -> bool:
        if isinstance(node, TensorLoad):
            return True
        if isinstance(node, tirx.Var):
            on_data, found = self._bound.get(handle(node), (False, {}))
            self.found |= found
            return on_data
        if isinstance(node, (tirx.Bind, tirx.Let)):
            self._bound[handle(node.var)] = self._collect(self.visit, node.value)
            return self.visit(node.body) if isinstance(node, tirx.Let) else False
        if isinstance(node, tirx.AttrStmt) and node.attr_key in _FOREIGN_PRAGMAS:
            self._distrust(node, f"{node.attr_key} brings in code that cannot be checked")
        if isinstance(node, ir.Call):
            return self._visit_call(node)
        on_data = self._visit_fields(node)
        if isinstance(node, _MULTIPLYING) and on_data:
            self.found[handle(node)] = f"{self._block}: {node}"
        return on_data

    def _visit_call(self, call: Any) -> bool:
        on_data = self._visit_all(call.args)
        if not isinstance(call.op, Op):
            # Another function of the module, which is checked where it is.
            return on_data
        name = str(call.op.name)
        if name in _LLVM_CALLS:
            intrinsic = llvm_intrinsic_name(int(call.args[0]))
            # A pure intrinsic that is given no data can only compute addresses.
            harmless = not on_data and name == "tirx.call_llvm_pure_intrin"
            if not harmless and not _is_free_intrinsic(intrinsic):
                self._distrust(call, f"{intrinsic} in {call}")
        elif name not in _ALLOWED_CALLS:
            self._distrust(call, str(call))
        return on_data

    def _visit_fields(self, node: Any) -> bool:
        return self._visit_all(
            value
            for name, value in fields(node)
            if name not in _SKIPPED_FIELDS and value is not None
        )

    def _visit_all(self, nodes: Iterable[Any]) -> bool:
        # All of them: any() of a generator would stop at the first that depends on data.
        on_data = [self.visit(node) for node in nodes]
        return any(on_data)

    def _distrust(self, node: Any, text: str) -> None:
        self.calls[handle(node)] = f"{self._block}: {text}"


def _is_free_intrinsic(name: str) -> bool:
    return bool(_LLVM_ALLOWED.search(name)) and not _LLVM_REFUSED.search(name)
