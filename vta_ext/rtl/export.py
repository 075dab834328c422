"""The machine as Verilog, for those who bring their own tools and for the Verilated device.

python -m vta_ext.rtl.export --preset shift-16x16 --output machine.v
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vta_ext.config import Config, load
from vta_ext.presets import PRESETS, preset
from vta_ext.rtl import tools

#: The module's name.
TOP = "vta_machine"


def to_verilog(config: Config, memory_bits: int = 64, name: str = TOP) -> str:
    """One Verilog file with the machine of ``config`` as module ``name``.

    Ports: clk, rst, and those of :class:`vta_ext.rtl.machine.Machine`, parts joined by two
    underscores. Raises InputError for a configuration or width that the hardware cannot have, and
    DependencyError without Amaranth.
    """
    tools.require("amaranth")
    from amaranth.back import verilog

    from vta_ext.rtl.machine import Machine

    text = verilog.convert(
        Machine(config, memory_bits), name=name, strip_internal_attrs=True, emit_src=False
    )
    return str(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the Verilog of a preset or of a configuration's file."""
    parser = argparse.ArgumentParser(description="Write the machine as Verilog.")
    machine = parser.add_mutually_exclusive_group(required=True)
    machine.add_argument("--preset", choices=list(PRESETS))
    machine.add_argument("--config", type=Path, help="a JSON file")
    parser.add_argument("--bits", type=int, default=64, help="memory port: 32, 64 or 128")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    with tools.explained(parser):
        config = preset(given.preset).config if given.preset else load(given.config)
        text = to_verilog(config, given.bits)
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
