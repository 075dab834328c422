"""Builds a program by hand: places sections in DRAM, collects micro-op kernels, appends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import ProgramError
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import Instruction
from vta_ext.isa.table import MEMORIES, MEMORY_BY_NAME
from vta_ext.program import Label, Program, Section, micro_op_section


class ProgramBuilder:
    """Collects the parts of a program; :meth:`build` makes it.

    Sections are placed one after another, each at a multiple of the largest element, so that
    elements of every memory can be addressed in them. Kernels are placed one after another in the
    micro-op buffer and are loaded together by :meth:`load_kernels`; a program with more of them
    than fit loads them itself.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sections: list[Section] = []
        self.instructions: list[Instruction] = []
        self.labels: list[Label] = []
        self._rows: list[isa.MicroOps] = []
        self._kernels_at: int | None = None
        self._align = max(getattr(config, memory.element) for memory in MEMORIES)
        #: One beyond the last byte of the sections, as the next one may begin.
        self.end = 0

    def _place(self, name: str, role: str, size: int, data: bytes | None = None) -> Section:
        section = Section(name, role, self.end, size, data)
        self.end += -(-size // self._align) * self._align
        self.sections.append(section)
        return section

    def input(self, name: str, size: int) -> Section:
        """A section of ``size`` bytes that is written before the program runs."""
        return self._place(name, "input", size)

    def output(self, name: str, size: int) -> Section:
        """A section of ``size`` bytes that is read afterwards."""
        return self._place(name, "output", size)

    def scratch(self, name: str, size: int) -> Section:
        """A section of ``size`` bytes for the program's own use."""
        return self._place(name, "scratch", size)

    def constant(self, name: str, values: NDArray[Any] | bytes) -> Section:
        """A section with contents; arrays are taken as they lie in memory, little-endian."""
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
        return self._place(name, "constant", len(data), data)

    def element(self, section: Section, memory: str, index: int = 0) -> int:
        """The ``dram_base`` of element ``index`` of a section, counted as ``memory`` does."""
        size: int = getattr(self.config, MEMORY_BY_NAME[memory].element)
        if section.offset % size:
            raise ProgramError(
                f"section {section.name} begins at byte {section.offset}, which is no multiple of "
                f"the {size} bytes of an element of {memory}"
            )
        return section.offset // size + index

    def kernel(self, rows: Any) -> tuple[int, int]:
        """Add micro-ops ``[n, 3]`` (dst, src, wgt); their place in the buffer, [first, last)."""
        new = isa.micro_ops(rows)
        first = sum(len(part) for part in self._rows)
        if first + len(new) > self.config.uop_depth:
            raise ProgramError(
                f"{first + len(new)} micro-ops do not fit the {self.config.uop_depth} of the "
                "buffer; load kernels in parts"
            )
        self._rows.append(new)
        return first, first + len(new)

    def load_kernels(self) -> None:
        """Load all kernels, those added later too; nothing at all where there are none."""
        self._kernels_at = len(self.instructions)

    def append(self, *instructions: Instruction) -> None:
        """Append instructions."""
        self.instructions += instructions

    def label(self, name: str) -> None:
        """Name what is appended from here on."""
        self.labels.append(Label(len(self.instructions), name))

    def build(self) -> Program:
        """The program. Raises ProgramError where it is not a valid one."""
        instructions, labels = list(self.instructions), list(self.labels)
        if self._kernels_at is not None and self._rows:
            rows = np.concatenate(self._rows)
            section = micro_op_section("micro-ops", rows, self.end, self.config)
            at = self._kernels_at
            base = self.element(section, "uop")
            instructions.insert(at, isa.load("uop", sram_base=0, dram_base=base, x_size=len(rows)))
            labels = [Label(x.position + (x.position > at), x.name) for x in labels]
            sections = (*self.sections, section)
        else:
            sections = tuple(self.sections)
        return Program(self.config, tuple(instructions), sections, tuple(labels))
