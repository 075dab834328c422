"""The decoder's view of the table: plain data that hardware generators read."""

from __future__ import annotations

import json
from typing import Any

from vta_ext.config import Config
from vta_ext.isa import table
from vta_ext.isa.layout import Layout, immediate_layout, instruction_layout, micro_op_layout


def _fields(layout: Layout) -> list[dict[str, Any]]:
    return [
        {
            "name": bits.name,
            "low": bits.low,
            "width": bits.width,
            "signed": bool(bits.field and bits.field.signed),
        }
        for bits in layout.fields
    ]


def rtl_layout(config: Config) -> dict[str, Any]:
    """Everything a decoder for ``config`` needs, as an object that JSON can hold.

    ``instructions``: opcode, needed fields with bit positions, and the mask of bits that must be
    0; only what this machine has. ``alu``: code, operand source and fields of the immediate.
    """
    return {
        "hash": config.hash,
        "parameters": config.to_dict(),
        "instructions": {
            kind.name: {
                "opcode": kind.opcode,
                "fields": _fields(instruction_layout(kind, config)),
                "reserved": f"{instruction_layout(kind, config).reserved:#034x}",
            }
            for kind in table.INSTRUCTIONS
            if config.has(kind.needs)
        },
        "micro_op": _fields(micro_op_layout(config)),
        "memories": {
            memory.name: {
                "id": memory.id,
                "element_bytes": getattr(config, memory.element),
                "depth": getattr(config, memory.depth),
                "load": memory.load.value
                if memory.load and config.has(memory.load_needs)
                else None,
                "store": memory.store and config.has(memory.store_needs),
            }
            for memory in table.MEMORIES
        },
        "alu": {
            operation.name: {
                "code": operation.code,
                "source": operation.source.name.lower(),
                "immediate": _fields(immediate_layout(operation, config)),
            }
            for operation in table.ALU_OPERATIONS
            if operation.name in config.alu_ops
        },
    }


def rtl_json(config: Config) -> str:
    """:func:`rtl_layout` as JSON text."""
    return json.dumps(rtl_layout(config), indent=2) + "\n"
