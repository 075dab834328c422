"""The search for multiplications of data in TensorIR: what makes a region "multiplier-free".

Data is what a buffer holds. Loop variables, shapes and constants are no data, and neither is what
only says where to load or store (indices, loop bounds, block bindings): multiplications there
are addressing. A quotient or remainder counts as a multiplication; so does an operation by a
constant. A call counts unless it is known to be free of multiplication: code that cannot be seen
into is not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    """Every multiplication of data in a TensorIR function, in order, as text.

    An entry reads ``block: expression``. Empty means that the function is free of them.
    """
    walker = _Walker()
    walker.visit(prim_func.body)
    return walker.found


class _Walker:
    """Walks statements and expressions; remembers which variables stand for data."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._block = "root"
        self._data_variables: set[int] = set()
        # Expressions are graphs with shared parts; each part is looked at once.
        self._known: dict[int, bool] = {}

    def visit(self, node: Any) -> bool:
        """Report what is found below ``node``; returns whether its value depends on data."""
        if isinstance(node, (list, tuple)) or type(node).__name__ == "Array":
            return self._visit_all(node)
        if not isinstance(node, (ir.Expr, tirx.Stmt)):
            return self._visit_other(node)
        key = handle(node)
        if key not in self._known:
            self._known[key] = self._visit_node(node)
        return self._known[key]

    def _visit_other(self, node: Any) -> bool:
        """A block, an operator, a plain value."""
        if hasattr(node, "name_hint") and hasattr(node, "body"):
            outer, self._block = self._block, str(node.name_hint)
            self._visit_fields(node)
            self._block = outer
        return False

    def _visit_node(self, node: Any) -> bool:
        if isinstance(node, TensorLoad):
            return True
        if isinstance(node, tirx.Var):
            return handle(node) in self._data_variables
        if isinstance(node, (tirx.Bind, tirx.Let)):
            return self._visit_binding(node)
        if hasattr(node, "name_hint") and hasattr(node, "body"):
            return self._visit_other(node)
        if isinstance(node, tirx.AttrStmt) and node.attr_key in _FOREIGN_PRAGMAS:
            self._report(f"{node.attr_key} brings in code that cannot be checked")
        if isinstance(node, ir.Call):
            return self._visit_call(node)
        on_data = self._visit_fields(node)
        if isinstance(node, _MULTIPLYING) and on_data:
            self._report(str(node))
        return on_data

    def _visit_binding(self, node: Any) -> bool:
        if self.visit(node.value):
            self._data_variables.add(handle(node.var))
        return self.visit(node.body) if isinstance(node, tirx.Let) else False

    def _visit_call(self, call: Any) -> bool:
        on_data = self._visit_all(call.args)
        if isinstance(call.op, Op):
            name = str(call.op.name)
            if name in _LLVM_CALLS:
                intrinsic = llvm_intrinsic_name(int(call.args[0]))
                free = _is_free_intrinsic(intrinsic)
                # A pure intrinsic that is given no data can only compute addresses.
                if not free and (on_data or name == "tirx.call_llvm_intrin"):
                    self._report(f"{intrinsic} in {call}")
            elif name not in _ALLOWED_CALLS:
                self._report(str(call))
        # A call of another function of the module is checked where that function is.
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

    def _report(self, text: str) -> None:
        self.found.append(f"{self._block}: {text}")


def _is_free_intrinsic(name: str) -> bool:
    return bool(_LLVM_ALLOWED.search(name)) and not _LLVM_REFUSED.search(name)
