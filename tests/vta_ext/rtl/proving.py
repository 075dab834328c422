"""Proofs by SAT: a combinational output that is 1 for all inputs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import DependencyError
from vta_ext.rtl import tools


class Claim(wiring.Component):
    """``holds`` is the value that ``state(m, inputs)`` makes of inputs of the given widths."""

    def __init__(self, state: Callable[..., Value], **widths: int) -> None:
        self._state = state
        super().__init__({**{name: In(bits) for name, bits in widths.items()}, "holds": Out(1)})
        self._names = tuple(widths)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inputs: dict[str, Value] = {name: getattr(self, name) for name in self._names}
        m.d.comb += self.holds.eq(self._state(m, **inputs))
        return m


def prove(claim: Claim, folder: Path, *, induction: bool = False) -> bool:
    """Whether the claim holds for all inputs; by ``induction``, in all cycles after the reset."""
    time = "-tempinduct -set-init-zero -set-def-inputs " if induction else ""
    return _proved(claim, folder, f"{time}-prove holds 1")


def prove_bounded(
    claim: wiring.Component, folder: Path, cycles: int, assumed: str, holds: str = "holds"
) -> bool:
    """Whether output ``holds`` is 1 in each of the first ``cycles`` cycles after the reset.

    Over all inputs that keep the output ``assumed`` 1 until then: bounded model checking.
    """
    time = f"-tempinduct-baseonly -maxsteps {cycles} -set-init-zero -set-def-inputs"
    return _proved(claim, folder, f"{time} -set rst 0 -set {assumed} 1 -prove {holds} 1")


def _proved(claim: wiring.Component, folder: Path, question: str) -> bool:
    try:
        tool = tools.find("yosys")
    except DependencyError as error:
        pytest.skip(str(error))
    (folder / "claim.il").write_text(rtlil.convert(claim, name="claim"))
    script = (
        "read_rtlil claim.il; hierarchy -top claim; proc; flatten; memory -nordff; opt -full; "
        f"sat -timeout 300 {question} claim"
    )
    done = subprocess.run(
        [tool, "-p", script], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "timeout" not in done.stdout.lower().replace("-timeout", ""), done.stdout[-1000:]
    return "SUCCESS!" in done.stdout
