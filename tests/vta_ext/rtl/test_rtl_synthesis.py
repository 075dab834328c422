# amaranth: UnusedElaboratable=no
"""What comes out of the generator: no multiplier without the mode, and rows as small as claimed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.back import rtlil

from tests.vta_ext.programs import TINY
from tvm_shiftadd.errors import InputError
from vta_ext import presets
from vta_ext.config import Config, save
from vta_ext.rtl import area, export
from vta_ext.rtl.export import main
from vta_ext.rtl.machine import Machine

SHIFT_ONLY = replace(TINY, gemm_modes=("shift",), alu_ops=presets.SHIFT.alu_ops)


def multipliers(config: Config) -> int:
    """Multiplications of the netlist as it is elaborated."""
    return rtlil.convert(Machine(config)).count("cell $mul ")


def test_a_shift_machine_has_no_multiplication() -> None:
    assert multipliers(replace(SHIFT_ONLY, gemm_modes=("shift", "adder"))) == 0
    # One in each processing element, and one in each lane of the ALU.
    assert multipliers(TINY) == TINY.block * TINY.block + TINY.block


@pytest.mark.rtl
@pytest.mark.parametrize("config", [presets.SHIFT, presets.SHIFT_ADDER, presets.SMALL])
def test_presets_without_a_multiplier_have_none(config: Config) -> None:
    assert multipliers(config) == 0


@pytest.mark.rtl
def test_rows_are_smaller_than_multipliers() -> None:
    """ECP5 look-up tables against the Booth multiplier with the same registers; no DSP anywhere."""
    booth, shift, adder, both = (
        area.row_area(modes)
        for modes in (("multiply",), ("shift",), ("adder",), ("shift", "adder"))
    )
    assert {a.multipliers for a in (booth, shift, adder, both)} == {0}
    assert shift.luts <= 0.45 * booth.luts
    assert both.luts <= 0.58 * booth.luts
    assert adder.luts <= 0.35 * booth.luts


def test_verilog_is_exported(tmp_path: Path) -> None:
    target = tmp_path / "machine.v"
    save(SHIFT_ONLY, tmp_path / "config.json")
    main(["--config", str(tmp_path / "config.json"), "--output", str(target)])
    assert "module vta_machine(" in target.read_text()


@pytest.mark.parametrize(
    ("config", "bits", "said"),
    [
        ("{}", "256", "16, 32, 64 or 128 bits, not 256"),
        ('{"ACC_LATENCY": 3}', "64", "ACC_LATENCY of 4 or more, not 3"),
        ('{"LOG_BLOCK": 99}', "64", "LOG_BLOCK must be .* not 99"),
        ("{}", "sixty", "invalid int value: 'sixty'"),
    ],
)
def test_what_is_wrong_with_an_export_is_said_and_nothing_is_written(
    config: str,
    bits: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "machine.v").write_text("before")
    with pytest.raises(SystemExit) as ended:
        main(
            [f"--config={tmp_path}/config.json", f"--bits={bits}", f"--output={tmp_path}/machine.v"]
        )
    assert ended.value.code == 2
    assert re.search(f"error: .*{said}", capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "machine.v"}
    assert (tmp_path / "machine.v").read_text() == "before"


def test_a_place_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "to_verilog", lambda *_: "module vta_machine(); endmodule")
    with pytest.raises(SystemExit):
        main(["--preset=pynq", f"--output={tmp_path}/no/machine.v"])
    assert "error: [Errno 2] No such file or directory" in capsys.readouterr().err


def test_what_hardware_cannot_have_is_refused() -> None:
    with pytest.raises(InputError, match="16, 32, 64 or 128 bits, not 256"):
        Machine(TINY, 256)
    with pytest.raises(InputError, match="ACC_LATENCY of 4 or more, not 3"):
        Machine(replace(TINY, acc_latency=3))
