"""The machine's Verilog for Vivado: :class:`vta_ext.rtl.axi.AxiMachine` under the names it expects.

Vivado's packager finds AXI interfaces by the names of their ports, and its reset is active low.
The wrapper adds what AXI4 has and the machine does not need, as constants.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.back import verilog

from vta_ext.boards.zynq_tcl import TOP
from vta_ext.config import Config
from vta_ext.rtl.axi import WINDOW_BITS, AxiMachine
from vta_ext.rtl.port import ADDRESS_BITS

#: The machine's module in the wrapper.
INNER: Final = "vta_axi_machine"
#: Bits of the control slave's addresses: the smallest window that a block design gives away, 4 KiB.
CONTROL_BITS: Final = 12
#: Normal memory, neither shared nor cached: a driver keeps the processor's caches in step.
_CACHE: Final = 0b0011


class Port(NamedTuple):
    """A port of the wrapper: what it is joined to inside, a constant or nothing."""

    output: bool
    bits: int
    name: str
    inner: str = ""
    constant: str = ""

    def __str__(self) -> str:
        kind = "output" if self.output else "input"
        return f"{kind} wire [{self.bits - 1}:0] {self.name}"


def ports(memory_bits: int) -> tuple[Port, ...]:
    """All ports, clock and reset first."""
    found = [Port(False, 1, "aclk", "clk"), Port(False, 1, "aresetn")]
    for channel in ("ar", "aw"):
        found += [
            _memory(True, ADDRESS_BITS, f"{channel}addr"),
            _memory(True, 8, f"{channel}len"),
            _memory(True, 3, f"{channel}size"),
            _memory(True, 2, f"{channel}burst"),
            _memory(True, 1, f"{channel}valid"),
            _memory(False, 1, f"{channel}ready"),
            *(
                Port(True, bits, f"m_axi_{channel}{name}", constant=f"{bits}'d{value}")
                for name, bits, value in (
                    ("id", 1, 0),
                    ("lock", 1, 0),
                    ("cache", 4, _CACHE),
                    ("prot", 3, 0),
                    ("qos", 4, 0),
                )
            ),
        ]
    found += [
        Port(False, 1, "m_axi_rid"),
        _memory(False, memory_bits, "rdata"),
        _memory(False, 2, "rresp"),
        _memory(False, 1, "rlast"),
        _memory(False, 1, "rvalid"),
        _memory(True, 1, "rready"),
        _memory(True, memory_bits, "wdata"),
        _memory(True, memory_bits // 8, "wstrb"),
        _memory(True, 1, "wlast"),
        _memory(True, 1, "wvalid"),
        _memory(False, 1, "wready"),
        Port(False, 1, "m_axi_bid"),
        _memory(False, 2, "bresp"),
        _memory(False, 1, "bvalid"),
        _memory(True, 1, "bready"),
    ]
    for channel in ("aw", "ar"):
        inner = f"control__{channel}addr"
        found += [
            Port(False, CONTROL_BITS, f"s_axi_{channel}addr", f"{inner}[{WINDOW_BITS - 1}:0]"),
            Port(False, 3, f"s_axi_{channel}prot"),
            _control(False, 1, f"{channel}valid"),
            _control(True, 1, f"{channel}ready"),
        ]
    found += [
        _control(False, 32, "wdata"),
        Port(False, 4, "s_axi_wstrb"),
        _control(False, 1, "wvalid"),
        _control(True, 1, "wready"),
        _control(True, 2, "bresp"),
        _control(True, 1, "bvalid"),
        _control(False, 1, "bready"),
        _control(True, 32, "rdata"),
        _control(True, 2, "rresp"),
        _control(True, 1, "rvalid"),
        _control(False, 1, "rready"),
    ]
    return tuple(found)


def _memory(output: bool, bits: int, name: str) -> Port:
    return Port(output, bits, f"m_axi_{name}", f"memory__{name}")


def _control(output: bool, bits: int, name: str) -> Port:
    return Port(output, bits, f"s_axi_{name}", f"control__{name}")


def to_verilog(config: Config, memory_bits: int = 64) -> str:
    """One Verilog file with the wrapper ``TOP`` and the machine.

    Raises InputError for a configuration or width that the hardware cannot have.
    """
    inner = verilog.convert(
        AxiMachine(config, memory_bits), name=INNER, strip_internal_attrs=True, emit_src=False
    )
    return f"{inner}\n{_wrapper(ports(memory_bits))}"


def _wrapper(all_ports: tuple[Port, ...]) -> str:
    joined, constants = ["    .rst(~aresetn)"], []
    for port in all_ports:
        if port.constant:
            constants.append(f"  assign {port.name} = {port.constant};")
        elif port.inner.endswith("]"):
            inner, _, bits = port.inner.partition("[")
            joined.append(f"    .{inner}({port.name}[{bits})")
        elif port.inner:
            joined.append(f"    .{port.inner}({port.name})")
    return "\n".join(
        [
            f"module {TOP} (",
            ",\n".join(f"  {port}" for port in all_ports),
            ");",
            *constants,
            f"  {INNER} machine (",
            ",\n".join(joined),
            "  );",
            "endmodule",
            "",
        ]
    )
