"""Values of earlier cycles."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value


def delayed(
    m: Module, value: Value, cycles: int, name: str, *, reset_less: bool = False
) -> list[Value]:
    """A value now and after 1 to ``cycles`` cycles, in registers ``<name>_<cycle>``."""
    stages = [value]
    for cycle in range(cycles):
        register = Signal(len(value), name=f"{name}_{cycle}", reset_less=reset_less)
        m.d.sync += register.eq(stages[-1])
        stages.append(register)
    return stages
