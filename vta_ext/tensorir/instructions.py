"""Statements alone in their loops, as instructions: loads, products, operations, stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import handle
from tvm_shiftadd.errors import CompileError, ProgramError
from vta_ext.jit.recorder import Recorder
from vta_ext.program import Section
from vta_ext.tensorir.alu import AluWriter
from vta_ext.tensorir.buffers import Allocated, Buffers
from vta_ext.tensorir.environment import Environment
from vta_ext.tensorir.expressions import Parser, Vector
from vta_ext.tensorir.intrinsics import GEMM_CALL
from vta_ext.tensorir.nest import Index, Nest, NotElementsError, Order, carried
from vta_ext.tensorir.statements import Uses, describe
from vta_ext.tensorir.transfers import rectangles
from vta_ext.tensorir.types import low_bits, without_casts

Mask = NDArray[np.bool_]

#: Memory of a LOAD by buffer and by type in DRAM.
_LOADED: Final = {
    ("inp", "int8"): "inp",
    ("inp", "uint8"): "inp",
    ("wgt", "int8"): "wgt",
    ("wgt", "uint8"): "code",
    ("acc", "int32"): "acc",
    ("acc", "int8"): "acc8",
    ("acc", "uint8"): "acc8",
}


class Instructions:
    """Records the statements of one operator; ``sections``: its arguments, by handle."""

    def __init__(
        self,
        env: Environment,
        recorder: Recorder,
        sections: dict[int, Section],
        buffers: Buffers,
        uses: Uses,
    ) -> None:
        self.env, self.config, self.recorder = env, env.config, recorder
        self._sections, self._buffers, self._uses = sections, buffers, uses
        self._lanes = buffers.lanes
        #: Whether the output buffer has what the accumulator has: a LOAD fills the latter alone.
        self._in_out = np.zeros(self.config.acc_depth, np.bool_)

    def record(self, stmt: Any, nest: Nest, conditions: tuple[Any, ...]) -> None:
        """One statement in its loops. Raises CompileError that quotes it."""
        with _named(stmt):
            mask = np.ones(nest.shape, np.bool_)
            for condition in conditions:
                mask = mask & nest.array(condition)
            if not mask.any():
                return
            if type(stmt).__name__ == "Evaluate":
                self._gemm(stmt.value, nest, mask)
            elif handle(stmt.buffer) in self._sections:
                self._store(stmt, nest, mask)
            elif self._uses.loads(stmt):
                self._load(stmt, nest, mask)
            else:
                self._assign(stmt, nest, mask)
        self._buffers.end_statement()

    def _gemm(self, call: Any, nest: Nest, mask: Mask) -> None:
        if type(call).__name__ == "IntImm":
            return
        if type(call).__name__ != "Call" or str(call.args[0].value) != GEMM_CALL:
            raise CompileError("the only call that stands alone is that of the intrinsic GEMM")
        mode, *operands = call.args[1:]
        grid = []
        for name, access in zip(("acc", "inp", "wgt"), operands, strict=True):
            place = self._placed(access.source, name)
            offsets = nest.offsets(access.source, access.indices)
            if (offsets % self._lanes(name)).any():
                raise CompileError(f"the intrinsic GEMM does not begin at an element of {name}")
            _check_within(access.source, offsets[mask] // self._lanes(name), self._lanes(name))
            grid.append(self._buffers.first(place) + offsets // self._lanes(name))
        rows = np.stack(grid, axis=-1)
        rows = rows if mask.all() else rows[mask]
        self.recorder.gemm(str(mode.value), rows)
        self._in_out[grid[0][mask]] = True

    def _target(self, stmt: Any) -> Allocated:
        found = self._buffers.get(stmt.buffer)
        assert found is not None, "what is no argument is allocated"
        return found

    def _placed(self, buffer: Any, memory: str) -> Allocated:
        found = self._buffers.get(buffer)
        if found is None or found.memory != memory:
            raise CompileError(f"{buffer.name} is not in the buffer {memory}")
        return found

    def _load(self, stmt: Any, nest: Nest, mask: Mask) -> None:
        target = self._target(stmt)
        copy = self._uses.loads(stmt)
        assert copy is not None
        if str(stmt.buffer.scope()) == self.env.out_scope:
            raise CompileError(
                f"nothing loads scope {self.env.out_scope}; use {self.env.acc_scope}"
            )
        section, source = self._sections[handle(copy.source.source)], copy.source.source
        lanes = self._lanes(target.memory)
        written = nest.offsets(stmt.buffer, stmt.indices)
        order = Order.of(written, lanes, target.memory)
        inside = mask if copy.condition is None else mask & nest.array(copy.condition)
        read = nest.offsets(source, copy.source.indices)
        copied, touched = order.by_element(inside), order.by_element(mask)
        entries = order.elements(written, lanes, target.memory)
        dram = order.elements(read, lanes, str(source.name))
        _check_within(stmt.buffer, entries[touched], lanes)
        _check_within(source, dram[copied], lanes)
        sram = self._buffers.first(target) + entries
        _check_once(sram[touched], np.where(copied, dram, -1)[touched])
        memory, unsigned = self._memory_of(source, target.memory)
        padding = {"pad_least": copy.padding == -128} if copy.padding else {}
        if copy.padding not in (0, -128) or (padding and not self.config.has("pad-least")):
            raise CompileError(f"a load cannot pad with {copy.padding}")
        for box in rectangles(sram, dram, copied, copied if copy.condition is None else touched):
            self.recorder.load(
                memory,
                section,
                sram=box.sram,
                first=box.dram,
                y_pad=box.y_pad,
                x_pad=box.x_pad,
                unsigned=unsigned,
                **box.arguments(),
                **padding,
            )
        if target.memory == "acc":
            self._in_out[sram] = False

    def _memory_of(self, source: Any, memory: str) -> tuple[str, bool]:
        """Memory of a LOAD into a buffer, and whether its lanes are unsigned."""
        dtype = str(source.dtype)
        if (memory, dtype) not in _LOADED:
            raise CompileError(f"{source.name} of {dtype} cannot be loaded into buffer {memory}")
        unsigned = dtype == "uint8" and memory != "wgt"
        if unsigned and not self.config.has("unsigned-input"):
            raise CompileError(f"this machine does not read uint8, of which {source.name} is")
        return _LOADED[memory, dtype], unsigned

    def _store(self, stmt: Any, nest: Nest, mask: Mask) -> None:
        wide = str(stmt.buffer.dtype) == "int32"
        if not wide and str(stmt.buffer.dtype) not in ("int8", "uint8"):
            raise CompileError(
                f"{stmt.buffer.name} is {stmt.buffer.dtype}, but a machine stores int32, int8 or "
                "uint8"
            )
        access = without_casts(stmt.value) if wide else low_bits(stmt.value)
        place = None
        if type(access).__name__ == "TensorLoad":
            place = self._buffers.get(access.source)
        if place is None or place.memory != "acc":
            raise CompileError(
                "what is written to DRAM must be a plain copy of accumulators; compute in a buffer "
                f"of scope {self.env.acc_scope} before (Schedule.cache_write makes one)"
            )
        if wide and str(access.source.scope()) == self.env.out_scope:
            raise CompileError(f"{access.source.name} holds 8 bits; store int8")
        if wide and not self.config.has("store-acc"):
            raise CompileError("this machine stores 8 bits only; clip and cast to int8")
        lanes, name = self._lanes("acc"), str(stmt.buffer.name)
        written = nest.offsets(stmt.buffer, stmt.indices)
        order = Order.of(written, lanes, name)
        dram = order.elements(written, lanes, name)
        read = nest.offsets(access.source, access.indices)
        entries, stored = order.elements(read, lanes, "acc"), order.by_element(mask)
        _check_within(stmt.buffer, dram[stored], lanes)
        _check_within(access.source, entries[stored], lanes)
        sram = self._buffers.first(place) + entries
        _check_once(dram[stored], sram[stored])
        if not wide:
            self._fill_out(sram[stored])
        for box in rectangles(sram, dram, stored, stored):
            self.recorder.store(
                self._sections[handle(stmt.buffer)],
                memory="acc" if wide else "out",
                sram=box.sram,
                first=box.dram,
                **box.arguments(),
            )

    def _fill_out(self, entries: Index) -> None:
        """Copy to the output buffer what a LOAD has put into accumulators: adding 0 does."""
        missing = np.unique(entries[~self._in_out[entries]])
        if missing.size:
            zeros = np.zeros_like(missing)
            self.recorder.alu("add", np.stack([missing, zeros, zeros], axis=-1), imm=0)
            self._in_out[missing] = True

    def _assign(self, stmt: Any, nest: Nest, mask: Mask) -> None:
        target = self._target(stmt)
        if target.memory != "acc":
            raise CompileError(
                f"only a load from DRAM writes buffer {target.memory}; compute in scope "
                f"{self.env.acc_scope}"
            )
        lanes = self._lanes("acc")
        written = nest.offsets(stmt.buffer, stmt.indices)
        order = Order.of(written, lanes, "acc")
        run = order.by_element(mask)

        def vector(access: Any) -> Vector:
            place = self._buffers.get(access.source)
            if place is None:
                raise CompileError(
                    f"`{access}` is in DRAM; load it first, for instance by Schedule.cache_read "
                    f"with scope {self.env.acc_scope}"
                )
            offsets = nest.offsets(access.source, access.indices)
            if handle(access.source) == handle(stmt.buffer):
                _check_order(access, written[mask], offsets[mask])
            if str(access.source.scope()) == self.env.out_scope:
                raise CompileError(f"the ALU does not read scope {self.env.out_scope}")
            # Of weights, the ALU reads rows of codes.
            lanes = self.config.block if place.memory == "wgt" else self._lanes("acc")
            begin = self._buffers.first(place) * (self._lanes(place.memory) // lanes)
            found = order.elements(offsets, lanes, str(access.source.name))
            found = found if mask.all() else found[run]
            _check_within(access.source, found, lanes)
            return Vector(place.memory, begin + found)

        narrow = str(stmt.buffer.scope()) == self.env.out_scope
        value = low_bits(stmt.value) if narrow else stmt.value
        node = Parser(self.config, vector).parse(value)
        entries = order.elements(written, lanes, "acc")
        _check_within(stmt.buffer, entries[run], lanes)
        if mask.all():
            self._buffers.share(target, entries, node, lambda key: self._uses.ends(key, stmt))
        found = self._buffers.first(target) + entries
        found = found if mask.all() else found[run]
        AluWriter(self.recorder, self.config, self._buffers.temporary).write(found, node)
        if not (isinstance(node, Vector) and node.same("acc", found)):
            self._in_out[found] = True


def _check_order(access: Any, written: Index, read: Index) -> None:
    """A buffer that a statement reads and writes; its own old value is no matter of order."""
    if (written != read).any() and carried(written, read):
        raise CompileError(
            f"`{access}` is what an earlier iteration writes, but the iterations of a statement "
            "run in any order; write another buffer"
        )


def _check_within(buffer: Any, elements: Index, lanes: int) -> None:
    """Beside a buffer are others, which no instruction tells apart from it."""
    count = int(np.prod([int(n) for n in buffer.shape])) // lanes
    if elements.size and not 0 <= elements.min() <= elements.max() < count:
        raise CompileError(
            f"it reaches elements {elements.min()} to {elements.max()} of {buffer.name}, which has "
            f"{count}"
        )


def _check_once(written: Index, read: Index) -> None:
    """A copy: iterations that write one element must agree on what, since any may be the last."""
    if np.unique(written).size < written.size:
        pairs = np.unique(np.stack([written.ravel(), read.ravel()]), axis=1)
        if np.unique(pairs[0]).size < pairs.shape[1]:
            raise CompileError(
                "several iterations copy different elements to one place; copy what stays"
            )


@contextmanager
def _named(stmt: Any) -> Iterator[None]:
    """Errors quote the statement."""
    try:
        yield
    except (CompileError, ProgramError, NotElementsError) as error:
        raise CompileError(f"statement `{describe(stmt)}`: {error}") from error
    except KeyError as error:
        raise CompileError(
            f"statement `{describe(stmt)}`: {error.args[0]} is no index or condition that can be "
            "computed before the program runs"
        ) from error
