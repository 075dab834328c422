"""A C header: opcodes, ids and bit positions for one configuration."""

from __future__ import annotations

from collections.abc import Iterator

from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.layout import immediate_layout, instruction_layout, micro_op_layout

_HEAD = """\
/* Made from vta_ext/isa/table.py by `tvm-shiftadd isa doc --format c`; not to be edited. */
#ifndef VTAX_ISA_H
#define VTAX_ISA_H

#include <stdint.h>

/* The configuration these positions belong to; the hardware's ID register holds the same. */
#define VTAX_CONFIG_HASH UINT64_C(0x{hash})
"""

_TAIL = """
/* An instruction is two words, the lower first. No field crosses from one into the other. */
static inline uint64_t vtax_get(const uint64_t word[2], unsigned low, unsigned bits) {
  uint64_t value = word[low / 64] >> (low % 64);
  return bits == 64 ? value : value & ((UINT64_C(1) << bits) - 1);
}

static inline void vtax_set(uint64_t word[2], unsigned low, unsigned bits, uint64_t value) {
  uint64_t mask = bits == 64 ? ~UINT64_C(0) : (UINT64_C(1) << bits) - 1;
  word[low / 64] &= ~(mask << (low % 64));
  word[low / 64] |= (value & mask) << (low % 64);
}

#endif
"""


def _definitions(config: Config) -> Iterator[tuple[str, str]]:
    for name, value in config.to_dict().items():
        if isinstance(value, int):
            yield name, str(value)
    for kind in table.INSTRUCTIONS:
        if config.has(kind.needs):
            yield f"OPCODE_{kind.name}", str(kind.opcode)
    for memory in table.MEMORIES:
        yield f"MEMORY_{memory.name.upper()}", str(memory.id)
    for operation in table.ALU_OPERATIONS:
        if operation.name in config.alu_ops:
            yield f"ALU_CODE_{operation.name.upper()}", str(operation.code)
    layouts = [
        (k.name, instruction_layout(k, config)) for k in table.INSTRUCTIONS if config.has(k.needs)
    ]
    layouts.append(("UOP", micro_op_layout(config)))
    for operation in table.ALU_OPERATIONS:
        if operation.name in config.alu_ops:
            layouts.append((f"IMM_{operation.name.upper()}", immediate_layout(operation, config)))
    for name, layout in layouts:
        for bits in layout.fields:
            yield f"{name}_{bits.name.upper()}_LOW", str(bits.low)
            yield f"{name}_{bits.name.upper()}_BITS", str(bits.width)


def c_header(config: Config) -> str:
    """The text of the header for ``config``."""
    lines = [f"#define VTAX_{name} {value}" for name, value in _definitions(config)]
    return _HEAD.format(hash=config.hash) + "\n" + "\n".join(lines) + "\n" + _TAIL
