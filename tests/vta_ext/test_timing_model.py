"""The timing model: cycles that can be counted by hand, bounds, overlap, waits, and the trace."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vta_ext import kernels
from tvm_shiftadd.errors import DependencyError, InputError, ProgramError
from vta_ext import presets
from vta_ext.builder import ProgramBuilder
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import Instruction, Tokens
from vta_ext.program import Program, Section
from vta_ext.sim.report import TimingReport
from vta_ext.sim.roofline import roofline, save_plot
from vta_ext.sim.timing import TimingParameters, simulate
from vta_ext.sim.trace import save_trace

SHIFT = presets.SHIFT
#: From the first fetch to the cycle in which the first instruction is there: latency, two beats.
FETCH = 100


def timed(*instructions: Instruction, config: Config = SHIFT, **parameters: int) -> TimingReport:
    sections = (Section("all", "input", 0, 1 << 20),)
    program = Program(config, (*instructions, isa.finish()), sections)
    return simulate(program, TimingParameters(**parameters))


def test_an_empty_program_takes_one_fetch() -> None:
    report = timed()
    assert report.cycles == FETCH + 2 + 1
    assert report.bytes == {"instructions": 16}
    assert report.bus_busy == 2
    assert report.utilisation == 0.0


def test_a_matrix_instruction_takes_a_cycle_a_micro_op() -> None:
    gemm = isa.gemm("shift", uops=(0, 4), loops=(3, 5), dst=(4, 20))
    report = timed(gemm)
    # Two instructions are fetched; 4 cycles to start, 60 micro-ops, and the levels of the tree.
    assert report.cycles == FETCH + 4 + (4 + 60 + 4) + 1
    assert timed(gemm, config=presets.SMALL).cycles == FETCH + 4 + (4 + 60 + 3) + 1
    assert report.gemm_micro_ops() == 60
    clear = timed(gemm.replace(reset=1))
    assert clear.cycles == report.cycles
    assert clear.gemm_micro_ops() == 0


@pytest.mark.parametrize(
    ("instruction", "extra"),
    [
        (isa.alu("add", uops=(0, 1), loops=(2, 30), imm=1), 0),
        (isa.alu("add", uops=(0, 1), loops=(2, 30), src=(30, 1)), 60),
        (isa.alu("add", uops=(0, 1), loops=(2, 30), src=(30, 1), from_inp=True), 0),
        (isa.alu("req", uops=(0, 1), loops=(2, 30), src=(2, 0), lo=0, hi=1), 4),
        (isa.alu("lsa", uops=(0, 1), loops=(2, 30), src=(2, 1), row=0, from_inp=True), 0),
    ],
)
def test_an_alu_instruction_reads_an_operand_again_where_it_changes(
    instruction: Instruction, extra: int
) -> None:
    assert timed(instruction).cycles == FETCH + 4 + (4 + 60 + extra + 5) + 1


def test_a_load_takes_latency_and_beats() -> None:
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))
    load = isa.load("inp", sram_base=0, dram_base=0, x_size=64, tokens=Tokens(push_next=True))
    report = timed(load, wait)
    # 48 bytes of instructions are six beats. The request comes a cycle after the start; 1024 bytes
    # are 128 beats; an empty instruction 4.
    assert report.cycles == FETCH + 6 + 1 + 100 + 128 + 4 + 1
    assert timed(load, wait, memory_bits=128).cycles == FETCH + 3 + 1 + 100 + 64 + 4 + 1
    assert timed(load, wait, memory_latency=7).cycles == 7 + 6 + 1 + 7 + 128 + 4 + 1
    assert report.bytes["inp"] == 1024
    assert report.waits["compute"] == {"instructions": 107, "token from load": 228}


def test_prefetched_micro_ops_do_not_hold_compute_up() -> None:
    """The kernels of the next tile come while compute works on this one."""
    busy = isa.gemm("shift", uops=(0, 1), loops=(1, 1000), accumulate="clear")
    load = isa.load("uop", sram_base=0, dram_base=0, x_size=64, prefetch=True)
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))
    report = timed(busy, load.replace(push_next=1), wait)
    assert "token from load" not in report.waits["compute"]
    assert [s.module.value for s in report.steps if s.position == 1] == ["load"]
    own = timed(busy, load.replace(prefetch=0), wait.replace(pop_prev=0))
    assert own.cycles == report.cycles + 1 + 100 + 32


def test_padding_takes_an_entry_a_cycle() -> None:
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))
    load = isa.load(
        "inp", sram_base=0, dram_base=0, x_size=1, y_pad=(15, 15), x_pad=(15, 15),
        tokens=Tokens(push_next=True),
    )  # fmt: skip
    # The one element takes two beats.
    assert timed(load, wait).cycles == FETCH + 6 + 1 + 100 + 31 * 31 + 1 + 4 + 1


def test_requests_end_at_multiples_of_their_size() -> None:
    """512 bytes from such a multiple on are two requests, other ones are three."""
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))

    def cycles(dram_base: int) -> int:
        load = isa.load("inp", sram_base=0, dram_base=dram_base, x_size=32)
        # With so little room each request pays the latency.
        return timed(load.replace(push_next=1), wait, buffer_bytes=256).cycles

    assert cycles(0) == cycles(16) == FETCH + 6 + 1 + 2 * 100 + 64 + 4 + 1
    assert cycles(8) == cycles(0) + 100


def test_a_load_begins_a_cycle_after_the_one_before() -> None:
    load = isa.load("inp", sram_base=0, dram_base=0, x_size=1, y_pad=(15, 15), x_pad=(15, 15))
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))
    one = timed(load.replace(push_next=1), wait).cycles
    two = timed(load, load.replace(push_next=1), wait).cycles
    # What each of them loads is there in time, and two more beats of instructions come first.
    assert two == one + 2 + 1 + 31 * 31 + 1


def test_loads_overlap_each_other() -> None:
    """The latency is paid once, since requests go on while data comes."""
    loads = [isa.load("inp", sram_base=64 * n, dram_base=64 * n, x_size=64) for n in range(4)]
    last = loads[-1].replace(push_next=1)
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))
    report = timed(*loads[:-1], last, wait)
    assert report.cycles == pytest.approx(FETCH + 12 + 100 + 4 * 128, abs=20)


def test_a_small_buffer_cannot_hide_the_latency() -> None:
    loads = [isa.load("inp", sram_base=0, dram_base=0, x_size=1024, tokens=Tokens(push_next=True))]
    wait = isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True))
    wide = timed(*loads, wait).cycles
    narrow = timed(*loads, wait, buffer_bytes=256).cycles
    # One request of 32 beats at a time: 132 cycles for 256 bytes.
    assert narrow == pytest.approx(64 * 132 + FETCH, abs=100)
    assert wide == pytest.approx(2048 + 2 * FETCH, abs=30)


def gemm_report(**parameters: int) -> TimingReport:
    program = kernels.blocked_gemm(SHIFT, "shift", 128, 16, 8).program
    return simulate(program, TimingParameters(**parameters))


def test_a_double_buffered_gemm_hides_its_loads() -> None:
    report = gemm_report()
    busy = report.busy()
    assert report.gemm_micro_ops() == 128 * 16 * 8
    (gemm, requantise) = report.labels()
    # All but the first load, the parameters and ten cycles an instruction are hidden.
    assert gemm.utilisation > 0.94
    assert busy["load"] + busy["compute"] > report.cycles
    assert report.waits["compute"]["token from load"] < 300
    assert requantise.alu_micro_ops == 128 * 8
    assert requantise.bytes == report.bytes["out"] == 128 * 8 * 16
    assert requantise.bytes_by_memory == {"out": 128 * 8 * 16}
    assert gemm.bytes_by_memory["code"] == report.bytes["code"]
    assert sum(gemm.bytes_by_memory.values()) == gemm.bytes
    assert report.cycles == gemm.cycles + requantise.cycles
    assert gemm.of_bound == gemm.utilisation
    assert gemm.memory_cycles == gemm.bytes // 8
    assert requantise.bound == requantise.memory_cycles == 128 * 8 * 2
    assert sum(report.compute_cycles().values()) == busy["compute"]
    total = {k: gemm.waits.get(k, 0) + requantise.waits.get(k, 0) for k in gemm.waits}
    assert total | requantise.waits == report.waits["compute"] | total
    # Codes take half the bytes of integer weights.
    base = simulate(kernels.blocked_gemm(presets.BASE, "multiply", 128, 16, 8).program)
    assert 2 * report.bytes["code"] == base.bytes["wgt"]


def test_double_buffering_pays() -> None:
    """The same program where load waits for every step of compute."""
    program = kernels.blocked_gemm(SHIFT, "shift", 64, 12, 4).program
    instructions = list(program.instructions)
    steps = [n for n, i in enumerate(instructions) if i.kind.mode]
    loads = [n for n, i in enumerate(instructions) if str(i).startswith("load.inp")]
    for step in steps[:-1]:
        instructions[step] = instructions[step].replace(push_prev=1)
    for load in loads[1:]:
        instructions[load] = instructions[load].replace(pop_next=1)
    serial = simulate(replace(program, instructions=tuple(instructions))).cycles
    assert serial > 1.5 * simulate(program).cycles


@settings(max_examples=6)
@given(st.integers(0, 300), st.sampled_from([32, 64, 128, 256]))
def test_time_is_bounded_by_work_and_memory(latency: int, bits: int) -> None:
    report = gemm_report(memory_latency=latency, memory_bits=bits)
    traffic = 8 * sum(report.bytes.values()) / bits
    work = report.gemm_micro_ops() + 128 * 8
    assert report.cycles >= max(traffic, work) + latency
    assert report.bus_busy >= traffic
    # Compute runs or waits, nothing else.
    assert sum(report.waits["compute"].values()) + report.busy()["compute"] == report.cycles
    for better in (
        gemm_report(memory_latency=latency // 2, memory_bits=bits),
        gemm_report(memory_latency=latency, memory_bits=2 * bits),
    ):
        assert better.cycles <= report.cycles


def test_steps_keep_the_order_of_their_module() -> None:
    report = gemm_report()
    assert sorted(s.position for s in report.steps) == list(range(len(report.program.instructions)))
    for module in {s.module for s in report.steps}:
        mine = [s for s in report.steps if s.module is module]
        assert [s.position for s in mine] == sorted(s.position for s in mine)
        ends = [s.end for s in mine]
        assert ends == sorted(ends)


def test_the_trace_is_what_perfetto_reads(tmp_path: Path) -> None:
    report = gemm_report()
    save_trace(report, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"labels", "load", "load 2", "compute", "store", "compute waits"} <= set(names.values())
    slices = [e for e in events if e["ph"] == "X"]
    for row in names:
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if e["tid"] == row)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans)), names[row]
    steps = [e for e in slices if e["cat"] in ("load", "compute", "store")]
    assert len(steps) == len(report.program.instructions)
    waits = [e for e in slices if e["cat"] == "wait"]
    assert sum(e["dur"] for e in waits) == sum(sum(w.values()) for w in report.waits.values())
    assert {e["name"] for e in waits} >= {"wait: instructions", "wait: token from load"}
    gemm = next(e for e in steps if e["name"] == "gemm.shift")
    assert names[gemm["tid"]] == "compute"
    assert gemm["args"]["text"].startswith("gemm.shift pop_prev")
    assert gemm["dur"] == 4 + 128 * 8 + 4
    labels = [e for e in slices if e["cat"] == "label"]
    assert [e["name"] for e in labels] == ["gemm", "requantise"]
    assert sum(e["dur"] for e in labels) == report.cycles
    json.dumps(report.to_dict())


def test_a_program_that_never_ends_is_an_error() -> None:
    with pytest.raises(ProgramError, match="never ends: compute at instruction 0 waits"):
        timed(isa.gemm("shift", uops=(0, 0), tokens=Tokens(pop_prev=True)))


def test_a_program_that_leaves_its_memory_is_an_error() -> None:
    with pytest.raises(ProgramError, match="buffer uop"):
        timed(isa.load("uop", sram_base=8191, dram_base=0, x_size=2))
    with pytest.raises(ProgramError, match="of buffer inp are used"):
        timed(isa.load("inp", sram_base=0, dram_base=0, x_size=65535, y_size=65535))
    with pytest.raises(ProgramError, match="allowed; split it"):
        timed(isa.gemm("shift", uops=(0, 1), loops=(16383, 16383)))


def test_full_queues_hold_fetch_back() -> None:
    program = [isa.gemm("shift", uops=(0, 0))] * 300
    shallow = timed(*program, config=replace(SHIFT, log_queue_depth=1))
    deep = timed(*program)
    assert shallow.cycles > deep.cycles
    assert deep.cycles >= 300 * 4


@pytest.mark.parametrize(
    "values",
    [
        {"memory_bits": 0},
        {"memory_bits": 12},
        {"memory_latency": -1},
        {"burst_bytes": 4096},
        {"outstanding": 1.5},
    ],
)
def test_nonsense_parameters_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be"):
        TimingParameters(**values)


def test_labels_split_the_time() -> None:
    b = ProgramBuilder(SHIFT)
    for name in ("one", "two"):
        b.label(name)
        b.append(isa.gemm("shift", uops=(0, 4), loops=(1, 100), accumulate="clear"))
    b.append(isa.finish())
    one, two = simulate(b.build()).labels()
    assert (one.name, two.name) == ("one", "two")
    assert two.cycles == 4 + 400 + 4 + 1
    assert one.gemm_micro_ops == 0


def test_the_roofline_of_a_program(tmp_path: Path) -> None:
    found = roofline(gemm_report())
    (point,) = found.points
    assert (found.peak, found.bandwidth) == (256, 8.0)
    assert point.name == "gemm"
    assert point.rate == pytest.approx(256 * point.of_bound)
    assert point.rate < found.bound(point.intensity) == 256
    assert found.bound(1.0) == 8.0
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(DependencyError, match=r"tvm-shiftadd\[docs\]"):
            save_plot(found, tmp_path / "roofline.png")
        return
    save_plot(found, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 1000
