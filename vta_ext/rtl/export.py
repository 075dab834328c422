"""The machine as Verilog, for those who bring their own tools and for the Verilated device."""

from __future__ import annotations

from amaranth.back import verilog

from vta_ext.config import Config
from vta_ext.rtl.machine import Machine

#: The module's name.
TOP = "vta_machine"


def to_verilog(config: Config, memory_bits: int = 64, name: str = TOP) -> str:
    """One Verilog file with the machine of ``config`` as module ``name``.

    Ports: clk, rst, and those of :class:`vta_ext.rtl.machine.Machine`, parts joined by two
    underscores. Raises InputError for a configuration or width that the hardware cannot have.
    """
    text = verilog.convert(
        Machine(config, memory_bits), name=name, strip_internal_attrs=True, emit_src=False
    )
    return str(text)
