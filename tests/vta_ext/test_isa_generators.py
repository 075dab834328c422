"""What is made from the table: the checked-in page, a C header that compiles, the RTL's layout."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vta_ext import config as configuration
from vta_ext import presets
from vta_ext.isa import arithmetic, schema, table
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import Codec, codec
from vta_ext.isa.generators import c_header, markdown, rtl_layout
from vta_ext.sim.functional import FunctionalSimulator

ROOT = Path(__file__).resolve().parents[2]
MIXED = presets.SHIFT_ADDER


def test_the_checked_in_page_is_current() -> None:
    """Regenerate it with ``tvm-shiftadd isa doc -o docs/isa.md``."""
    assert (ROOT / "docs" / "isa.md").read_text() == markdown(MIXED)


def test_the_page_names_everything_in_the_table() -> None:
    page = markdown(MIXED)
    for kind in table.INSTRUCTIONS:
        assert f"## {kind.name}: opcode {kind.opcode}, `{kind.mnemonic}`" in page
        for name in isa.field_names(kind):
            assert f"`{name}`" in page
    for entries in (table.ALU_OPERATIONS, table.MEMORIES, table.EXTENSIONS):
        for entry in entries:
            assert f"| `{entry.name}` |" in page


def test_diagrams_have_no_torn_boxes() -> None:
    for part in markdown(MIXED).split("```text\n")[1:]:
        lines = part.partition("```")[0].rstrip("\n").split("\n")
        assert {len(line) for line in lines if line[0] in "+|"} == {97}


PROGRAM = """
#include <stdio.h>
#include "vtax.h"
int main(void) {
  uint64_t word[2] = {0, 0};
  vtax_set(word, VTAX_LOAD_OPCODE_LOW, VTAX_LOAD_OPCODE_BITS, VTAX_OPCODE_LOAD);
  vtax_set(word, VTAX_LOAD_MEMORY_LOW, VTAX_LOAD_MEMORY_BITS, VTAX_MEMORY_CODE);
  vtax_set(word, VTAX_LOAD_DRAM_BASE_LOW, VTAX_LOAD_DRAM_BASE_BITS, UINT64_C(0xFEDCBA98));
  vtax_set(word, VTAX_LOAD_SRAM_BASE_LOW, VTAX_LOAD_SRAM_BASE_BITS, 77);
  vtax_set(word, VTAX_LOAD_Y_SIZE_LOW, VTAX_LOAD_Y_SIZE_BITS, 1);
  vtax_set(word, VTAX_LOAD_X_SIZE_LOW, VTAX_LOAD_X_SIZE_BITS, 3);
  vtax_set(word, VTAX_LOAD_X_STRIDE_LOW, VTAX_LOAD_X_STRIDE_BITS, 3);
  printf("%016llx%016llx %u\\n", (unsigned long long)word[1], (unsigned long long)word[0],
         (unsigned)vtax_get(word, VTAX_LOAD_SRAM_BASE_LOW, VTAX_LOAD_SRAM_BASE_BITS));
  return 0;
}
"""


def test_the_c_header_compiles_and_agrees(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "vtax.h").write_text(c_header(MIXED))
    (tmp_path / "main.c").write_text(PROGRAM)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, "-o", str(tmp_path / "main"), str(tmp_path / "main.c")]
    subprocess.run(command, check=True)
    shown = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True)
    load = isa.load("code", sram_base=77, dram_base=0xFEDCBA98, x_size=3)
    assert shown.stdout == f"{codec(MIXED).encode(load):032x} 77\n"


def test_the_rtl_layout_is_plain_data_and_agrees() -> None:
    layout = json.loads(json.dumps(rtl_layout(MIXED)))
    assert layout["hash"] == MIXED.hash
    assert "GEMM" not in layout["instructions"]
    word = codec(MIXED).encode(isa.alu("req", uops=(3, 9), loops=(5, 6), lo=-7, hi=8))
    fields = {f["name"]: f for f in layout["instructions"]["ALU"]["fields"]}
    values = {name: (word >> f["low"]) & ((1 << f["width"]) - 1) for name, f in fields.items()}
    assert (values["uop_bgn"], values["uop_end"], values["iter_out"]) == (3, 9, 5)
    assert values["alu_op"] + 8 * values["alu_page"] == layout["alu"]["req"]["code"]
    assert word & int(layout["instructions"]["ALU"]["reserved"], 16) == 0
    lo = layout["alu"]["req"]["immediate"][0]
    assert (lo["name"], lo["low"], lo["width"], lo["signed"]) == ("lo", 0, 8, True)
    assert layout["memories"]["code"]["element_bytes"] == 128


def test_adding_an_operation_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new entry of the table is encoded, written as text, documented and simulated."""
    average = schema.AluOperation(
        "avg",
        5,
        schema.Source.OPERAND,
        "dst = (dst + y + 1) >> 1",
        lambda x, y: arithmetic.rounding_shift(arithmetic.add(x, y), np.int32(1)),
    )
    operations = (*table.ALU_OPERATIONS, average)
    monkeypatch.setattr(table, "ALU_OPERATIONS", operations)
    monkeypatch.setitem(table.OPERATION_BY_NAME, "avg", average)
    monkeypatch.setitem(table.OPERATION_BY_CODE, 5, average)
    monkeypatch.setitem(configuration._LISTS, "alu_ops", operations)
    config = replace(MIXED, alu_ops=("avg",), wgt_code_width=4)
    instruction = isa.alu("avg", uops=(0, 1), imm=6)
    assert Codec(config).decode(Codec(config).encode(instruction)) == instruction
    assert str(instruction) == "alu.avg uop_end=1 iter_out=1 iter_in=1 use_imm imm=6"
    simulator = FunctionalSimulator(config, 64)
    simulator.machine.acc[0] = 3
    simulator.step(instruction)
    assert (simulator.machine.acc[0] == 5).all()
    assert "dst = (dst + y + 1) >> 1" in markdown(config)
    assert rtl_layout(config)["alu"] == {
        "avg": {
            "code": 5,
            "source": "operand",
            "immediate": rtl_layout(MIXED)["alu"]["add"]["immediate"],
        }
    }
    assert "#define VTAX_ALU_CODE_AVG 5" in c_header(config)
