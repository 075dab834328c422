"""docs/accelerator.md: its program runs, and what it says of defaults is true."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from vta_ext import presets
from vta_ext.sim.timing import TimingParameters

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "accelerator.md").read_text()


def test_the_program_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "accelerator.md", "exec"), names)
    expected = np.minimum(2 * np.arange(128), 100)
    found = np.frombuffer(names["result"], np.int8)  # type: ignore[call-overload]
    assert np.array_equal(found, np.tile(expected, 3))
    assert os.path.getsize("double.vta") > 0


def test_the_numbers_of_the_page_are_the_defaults() -> None:
    p = TimingParameters()
    assert f"({p.memory_bits} bits), {p.memory_latency} cycles from a request" in PAGE
    assert f"requests of {p.burst_bytes} bytes" in PAGE
    assert f"{p.buffer_bytes:,} bytes and {p.outstanding} requests in flight" in PAGE
    assert f"{p.start_cycles} cycles to start" in PAGE
    assert f"{p.alu_cycles} cycles to the last write" in PAGE
    configs = {preset.config for preset in presets.PRESETS.values()}
    assert {c.acc_latency for c in configs} == {4}
    # Those of the ULX3S are smaller, which its rows' clock and memory do not show.
    assert {c.queue_depth for c in configs} == {64, 16}


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_table_of_presets_is_right(name: str) -> None:
    p = presets.preset(name)
    c = p.config
    weights = f"{c.wgt_depth:,} x {c.wgt_slot_bytes} B"
    row = (
        f"| `{name}` | {p.description} | {c.macs_per_cycle} | {c.inp_depth:,} | {weights} | "
        f"{c.acc_depth:,} | {p.clock_mhz} MHz, {p.memory_bits} bits |"
    )
    assert row in PAGE
