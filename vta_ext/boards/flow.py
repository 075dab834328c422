"""From a board to its report and its bitstream.

ECP5: Amaranth, yosys, nextpnr, ecppack. Other families: the machine behind AXI through yosys
alone, which counts cells; place and route is their vendor's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tvm_shiftadd.errors import CompileError, InputError
from vta_ext.boards import BOARDS, BOOTH, ECP5, Board
from vta_ext.boards.stages import Done, Stage, Workshop
from vta_ext.rtl import tools
from vta_ext.sigterm import ended_by_sigterm

#: Told what begins, how many stages are done, and how many there are.
Tell = Callable[[str, int, int], None]

#: What is counted of cells that are placed: rows of the table, and the cells each one adds up.
_PLACED: Final = {
    "LUT": {"TRELLIS_COMB": 1.0},
    "FF": {"TRELLIS_FF": 1.0},
    "DSP": {"MULT18X18D": 1.0, "ALU54B": 1.0},
    "BRAM": {"DP16KD": 1.0},
    "IO": {"TRELLIS_IO": 1.0},
    "PLL": {"EHXPLLL": 1.0},
}
#: What is counted after synthesis, by family. A carry cell of an ECP5 has two look-up tables, and a
#: memory of 16 words takes six; a block memory of half the size counts as half a one.
_ECP5: Final = {
    "LUT": {"LUT4": 1.0, "CCU2C": 2.0},
    "LUT as memory": {"TRELLIS_DPR16X4": 6.0},
    "carry": {"CCU2C": 1.0},
    "FF": {"TRELLIS_FF": 1.0},
    "DSP": {"MULT18X18D": 1.0, "ALU54B": 1.0},
    "BRAM": {"DP16KD": 1.0},
}
_XILINX: Final = {
    "LUT": {f"LUT{n}": 1.0 for n in range(1, 7)},
    # Each RAM32M and its like takes the tables of as many ports as it has.
    "LUT as memory": {
        "RAM32M": 4.0,
        "RAM64M": 4.0,
        "RAM32M16": 8.0,
        "RAM64M8": 8.0,
        "RAM32X1D": 2.0,
        "RAM64X1D": 2.0,
        "SRL16E": 1.0,
    },
    "carry": {"CARRY4": 1.0, "CARRY8": 1.0},
    "FF": dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE"), 1.0),
    "DSP": {"DSP48E1": 1.0, "DSP48E2": 1.0},
    "BRAM36": {"RAMB36E1": 1.0, "RAMB36E2": 1.0, "RAMB18E1": 0.5, "RAMB18E2": 0.5},
}
#: No program reads a word of the buffers or of memory in the cycle in which it is written: tokens
#: and the checker's rule for accumulators see to that. So no logic has to stand around block
#: memories that gives the old word then.
_UNREAD: Final = "setparam -set COLLISION_X_MASK 1'1 " + " ".join(
    f"*.{module}/t:$memrd_v2" for module in ("machine", "memory")
)
_REPORT: Final = "report.json"
#: Options of nextpnr for a part.
_PARTS: Final = {
    "LFE5U-85F-6BG381C": ("--85k", "--package", "CABGA381", "--speed", "6"),
}
#: Delays count for more than nextpnr's placer would have it (10 and 2). Wires as long as the part
#: is wide lead to block memories; by their length alone a register may stand at either end.
_PLACER: Final = ("--placer-heap-timingweight", "40", "--placer-heap-critexp", "3")


@dataclass(frozen=True)
class Resource:
    """``used`` of a kind of cell, and how many the part has where that is known."""

    used: float
    available: int | None = None


@dataclass(frozen=True)
class Report:
    """What a board's design takes. ``fmax_mhz``: after routing, None where nothing was routed."""

    board: str
    part: str
    machine: str
    target_mhz: int
    fmax_mhz: float | None
    resources: Mapping[str, Resource]
    stages: tuple[Done, ...]
    bitstream: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the clock is reached, None where that is not known."""
        return None if self.fmax_mhz is None else self.fmax_mhz >= self.target_mhz

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "met": self.met}


def build(
    board: Board, folder: Path, bitstream: bool, tell: Tell, seed: int | None = None
) -> Report:
    """Make the report of ``board`` in ``folder``, and its bitstream if that is wanted.

    seed: of placement, 1 by default. Files: ``report.json``, each stage's results and its log.

    Raises DependencyError where a package or tool is missing, CompileError where a tool fails, and
    for a bitstream that does not reach the board's clock or that this project cannot make;
    InputError for a folder that cannot be one or is in use, and for the seed of a board that is not
    placed. SIGTERM ends it by SystemExit, and the tool that runs with it.
    """
    if bitstream and not board.routed:
        raise CompileError(
            f"{board.name} has an {board.part}, which no open tool places and routes: ask for "
            "the report, and use the vendor's tools for the bitstream"
        )
    if seed is not None and not board.routed:
        raise InputError(f"{board.name} is not placed here, so there is nothing to seed: no --seed")
    stages = _stages(board, 1 if seed is None else seed)[: 3 if bitstream else 2]
    for tool in dict.fromkeys(stage.tool for stage in stages):
        tools.find(tool)
    with ended_by_sigterm(), Workshop(folder) as workshop:
        tell("generate", 0, len(stages) + 1)
        for name, text in _design(board).items():
            workshop.write(name, text)
        done: list[Done] = []
        for stage in stages:
            if stage.name == "pack":
                _require_clock(_written_report(board, workshop, tuple(done)), board)
            tell(stage.name, 1 + len(done), len(stages) + 1)
            done.append(workshop.run(stage, _others(stages[: len(done) + 1])))
        tell("done", len(stages) + 1, len(stages) + 1)
        return _written_report(board, workshop, tuple(done), "top.bit" if bitstream else None)


def count(board: Board, folder: Path, tell: Tell) -> tuple[dict[str, float], Done]:
    """Cells after synthesis alone, also of a board that is placed and of a baseline.

    Rows: LUT, LUT as memory, carry, FF, DSP, and BRAM or BRAM36. Files and errors as those of
    :func:`build`, but no report.
    """
    stage = _stages(board, 1)[0]
    tools.find(stage.tool)
    with ended_by_sigterm(), Workshop(folder) as workshop:
        tell("generate", 0, 2)
        for name, text in _design(board).items():
            workshop.write(name, text)
        tell(stage.name, 1, 2)
        done = workshop.run(stage, _others((stage,)))
        tell("done", 2, 2)
        return _counted(_ECP5 if board.family == ECP5 else _XILINX, _cells(workshop)), done


def _others(stages: Sequence[Stage]) -> tuple[str, ...]:
    """What a folder may hold that these stages have not made, but stages after them."""
    known = [stage for board in BOARDS.values() for stage in _stages(board, 1)]
    made = dict.fromkeys(name for stage in known for name in (stage.record, *stage.writes))
    kept = {name for stage in stages for name in (stage.record, *stage.writes)}
    return (_REPORT, *(name for name in made if name not in kept))


def _written_report(
    board: Board, workshop: Workshop, done: tuple[Done, ...], bitstream: str | None = None
) -> Report:
    """The report, which is ``report.json`` too."""
    report = _report(board, workshop, done, bitstream)
    workshop.write(_REPORT, json.dumps(report.to_dict(), indent=2) + "\n")
    return report


def _design(board: Board) -> dict[str, str]:
    """The inputs of the first stages."""
    tools.require("amaranth", "amaranth_boards")
    if board.memory:
        from vta_ext.boards.ulx3s import plan

        files = plan(board, "top").files
        return {name: _text(files[name]) for name in ("top.il", "top.lpf")}
    from amaranth.back import rtlil

    from vta_ext.rtl.axi import AxiMachine

    machine = AxiMachine(board.config, board.memory_bits)
    return {"top.il": str(rtlil.convert(machine, name="top", emit_src=False))}


def _text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode()


def _stages(board: Board, seed: int) -> tuple[Stage, ...]:
    """All stages, of which a report needs all but the packing."""
    script = f"{_synthesis(board)}; tee -q -o cells.json stat -json"
    if not board.routed:
        arguments = ("-q", "-p", script)
        return (Stage("synthesis", "yosys", arguments, ("top.il",), ("cells.json",)),)
    script += "; write_json netlist.json"
    place = (
        *_PARTS[board.part],
        *_PLACER,
        *("--freq", str(board.clock_mhz), "--seed", str(seed), "--timing-allow-fail"),
        *("--json", "netlist.json", "--lpf", "top.lpf"),
        *("--textcfg", "top.config", "--report", "route.json"),
    )
    return (
        Stage(
            "synthesis",
            "yosys",
            ("-q", "-p", script),
            ("top.il",),
            ("cells.json", "netlist.json"),
        ),
        Stage(
            "route",
            "nextpnr-ecp5",
            place,
            ("netlist.json", "top.lpf"),
            ("top.config", "route.json"),
        ),
        Stage(
            "pack",
            "ecppack",
            ("--compress", "--input", "top.config", "--bit", "top.bit"),
            ("top.config",),
            ("top.bit",),
        ),
    )


def _synthesis(board: Board) -> str:
    """yosys's commands from ``top.il`` to cells."""
    make = "synth_ecp5" if board.family == ECP5 else f"synth_xilinx -family {board.family} -flatten"
    before = f"read_rtlil top.il; {_UNREAD}; "
    if board.multipliers == BOOTH:
        before += "hierarchy -top top; proc; flatten; opt; wreduce; booth; opt; "
        make += " -nodsp"
    return f"{before}{make} -top top"


def _report(
    board: Board, workshop: Workshop, done: tuple[Done, ...], bitstream: str | None = None
) -> Report:
    if board.routed:
        found = json.loads((workshop.folder / "route.json").read_text(encoding="utf-8"))
        counts = {name: entry["used"] for name, entry in found["utilization"].items()}
        limits = {name: entry["available"] for name, entry in found["utilization"].items()}
        # Not that of the oscillator, which drives the PLL alone.
        clocks = [c for c in found["fmax"].values() if c["constraint"] > board.clock_mhz - 1]
        fmax = min((clock["achieved"] for clock in clocks), default=None)
    else:
        counts, limits, fmax = _cells(workshop), {}, None
    config, kinds = board.config, _PLACED if board.routed else _XILINX
    return Report(
        board=board.name,
        part=board.part,
        machine=f"{'+'.join(config.gemm_modes)} {config.block} x {config.block}",
        target_mhz=board.clock_mhz,
        fmax_mhz=None if fmax is None else round(fmax, 1),
        resources={
            row: Resource(used, sum(limits.get(cell, 0) for cell in kinds[row]) or None)
            for row, used in _counted(kinds, counts).items()
        },
        stages=done,
        bitstream=bitstream,
    )


def _cells(workshop: Workshop) -> dict[str, int]:
    """Cells by type, after synthesis."""
    found = json.loads((workshop.folder / "cells.json").read_text(encoding="utf-8"))
    counts: dict[str, int] = found["design"]["num_cells_by_type"]
    return counts


def _counted(
    kinds: Mapping[str, Mapping[str, float]], counts: Mapping[str, int]
) -> dict[str, float]:
    """The rows of ``kinds``: of each the cells that it adds up."""
    return {
        row: sum(weight * counts.get(cell, 0) for cell, weight in cells.items())
        for row, cells in kinds.items()
    }


def _require_clock(report: Report, board: Board) -> None:
    """A bitstream that is too slow would compute nonsense."""
    if not report.met:
        raise CompileError(
            f"the design reaches {report.fmax_mhz} MHz after routing, {board.name} runs it at "
            f"{board.clock_mhz}: try another --seed; the report is there"
        )
