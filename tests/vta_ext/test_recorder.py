"""The just-in-time recorder: loops folded, kernels cached and evicted, programs bit-exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vta_ext.kernels import combine, weights
from tvm_shiftadd.errors import ProgramError
from vta_ext import checker
from vta_ext.config import Config
from vta_ext.isa import access
from vta_ext.isa.machine import pack_codes
from vta_ext.jit.cache import MicroOpCache
from vta_ext.jit.recorder import Kernel, Recorder
from vta_ext.micro_op_buffer import MicroOpBuffer
from vta_ext.presets import BASE, SHIFT
from vta_ext.program import Program
from vta_ext.sim.functional import FunctionalSimulator

#: The smallest buffer of micro-ops that a test can do much with: 16.
FEW = replace(SHIFT, log_uop_buff_size=6)


def run(program: Program, **inputs: np.ndarray) -> bytes:
    assert checker.check(program) == []
    simulator = FunctionalSimulator(program.config, program.dram_bytes)
    simulator.place(program)
    for name, values in inputs.items():
        simulator.write(program.section(name).offset, values)
    simulator.run(program.instructions)
    y = program.section("y")
    return simulator.read(y.offset, y.size)


def product_of(config: Config, mode: str, blocks: int, rows: int) -> None:
    """``rows`` vectors times a matrix, each pair of blocks a kernel of its own."""
    rng = np.random.default_rng(blocks)
    x = rng.integers(-128, 128, (blocks, rows, 16)).astype(np.int8)
    w = weights(mode, (blocks * 16, blocks * 16), rng)
    tiles = w.reshape(blocks, 16, blocks, 16).transpose(0, 2, 3, 1)
    memory = "code" if mode == "shift" else "wgt"
    r = Recorder(config)
    source, target = r.input("x", x.size), r.output("y", x.size)
    matrix = r.constant("w", pack_codes(tiles) if mode == "shift" else tiles)
    r.label("product")
    r.load("inp", source, sram=0, x_size=blocks * rows)
    r.load(memory, matrix, sram=0, x_size=blocks**2)
    for _ in range(2):
        for i, o in product(range(blocks), repeat=2):
            kernel = Kernel()
            with kernel.loop(rows, dst=1, src=1):
                kernel.push(o * rows, i * rows, i * blocks + o)
            if i == 0:
                r.gemm(mode, kernel, "clear")
            r.gemm(mode, kernel)
    everything = Kernel()
    with everything.loop(blocks * rows, dst=1):
        everything.push(0)
    r.alu("shr", everything, imm=9)
    r.alu("max", everything, imm=-128)
    r.alu("min", everything, imm=127)
    r.store(target, sram=0, x_size=blocks * rows)
    acc = combine(mode, x.transpose(1, 0, 2).reshape(rows, -1).astype(np.int64), w)
    y = np.clip(acc >> 9, -128, 127).astype(np.int8).reshape(rows, blocks, 16)
    program = r.build()
    assert run(program, x=x) == y.transpose(1, 0, 2).tobytes()
    loads = [i for i in program.instructions if i.kind.name == "LOAD" and i.x_size]
    ahead = [i.prefetch for i in loads if i.memory_type.name == "uop"]
    assert any(ahead) == (len(ahead) > 1)
    c = r.counters
    kernels = blocks**2 + blocks - 1
    assert c.hits + c.misses == 2 * blocks**2 + 2 * blocks + 3
    if kernels <= config.uop_depth:
        assert (c.misses, c.evictions, c.loads) == (kernels, 0, 1)
        assert c.bytes == 4 * kernels
    else:
        assert c.evictions > 0 and c.loads > 1 and c.misses > kernels


@pytest.mark.parametrize(
    ("config", "mode", "blocks"),
    [(BASE, "multiply", 4), (SHIFT, "shift", 5), (FEW, "shift", 5), (FEW, "shift", 7)],
    ids=["VTA", "shift", "overflowing", "overflowing more"],
)
def test_products_with_a_kernel_for_each_tile(config: Config, mode: str, blocks: int) -> None:
    """In a buffer of 16 micro-ops the kernels displace each other, and results stay the same."""
    product_of(config, mode, blocks, rows=6)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=60),
    st.integers(1, 16),
    st.integers(0, 3),
)
def test_every_use_finds_its_kernel(uses: list[tuple[int, int]], batch: int, ahead: int) -> None:
    """Whatever is evicted, and however early loads are, the buffer holds each kernel at its use."""
    cache = MicroOpCache(FEW, batch=batch)
    entries, wanted = [], []
    for name, size in uses:
        rows = np.full((size, 3), 16 * name + size, np.int32)
        begin, missing = cache.place(rows, ahead=ahead)
        if missing is not None:
            assert len(wanted) - ahead <= missing.before - 1 <= len(wanted)
            entries.append((missing.before - 1, missing.entry))
        wanted.append((begin, rows))
    buffer = np.full((FEW.uop_depth, 3), -1)
    for number, (begin, rows) in enumerate(wanted):
        for position, load in entries:
            if position == number:
                i = load.instruction
                assert i.x_size <= max(batch, 9)
                part = cache.micro_ops[i.dram_base : i.dram_base + i.x_size]
                buffer[i.sram_base : i.sram_base + i.x_size] = part
        assert np.array_equal(buffer[begin : begin + len(rows)], rows)
    c = cache.counters
    assert c.hits + c.misses == len(uses) and c.bytes == 4 * len(cache.micro_ops)


def test_the_kernel_used_longest_ago_makes_room() -> None:
    cache = MicroOpCache(FEW, batch=1)
    one, two, three, four = (np.full((6, 3), n, np.int32) for n in range(4))
    assert cache.place(one)[0] == 0
    assert cache.place(two)[0] == 6
    assert cache.place(one)[1] is None
    assert cache.place(three)[0] == 6
    assert cache.place(four)[0] == 0
    assert cache.counters.evictions == 2
    with pytest.raises(ProgramError, match="17 micro-ops does not fit the 16"):
        cache.place(np.zeros((17, 3), np.int32))


def micro_ops_of(program: Program) -> tuple[set[tuple[int, ...]], int]:
    """What the GEMM instructions of a program touch, and how many there are."""
    buffer, found, count = MicroOpBuffer(program), set(), 0
    for i in program.instructions:
        if i.kind.name == "LOAD" and i.memory_type.name == "uop":
            move = access.transfer(i, program.config)
            if move is not None:
                buffer.load(move)
        elif i.kind.mode is not None:
            loops = (i.iter_out, i.iter_in)
            index = [operand.indices(loops) for operand in buffer.operands(i).values()]
            found |= set(zip(*(part.tolist() for part in index), strict=True))
            count += 1
    return found, count


@settings(max_examples=40)
@given(st.data())
def test_folded_loops_run_the_same_micro_ops(data: st.DataObject) -> None:
    """Loops in any order, with any steps, are all there, and the pipeline is kept."""
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    steps = [[data.draw(st.integers(0, 40)) for _ in range(3)] for _ in shape]
    kernel, wanted = Kernel(), set()

    def nest(depth: int) -> None:
        if depth == len(shape):
            kernel.push(3, 2, 1)
            return
        with kernel.loop(shape[depth], *steps[depth]):
            nest(depth + 1)

    nest(0)
    for index in np.ndindex(*shape):
        wanted.add(tuple(np.array([3, 2, 1]) + np.array(index) @ np.array(steps)))
    r = Recorder(SHIFT)
    r.gemm("shift", kernel)
    program = r.build()
    assert not any(v.rule == "pipeline hazard" for v in checker.check(program))
    assert micro_ops_of(program)[0] == wanted


def test_a_convolution_is_one_instruction() -> None:
    kernel = Kernel()
    with (
        kernel.loop(4, wgt=9, dst=64),
        kernel.loop(8, dst=8, src=10),
        kernel.loop(8, dst=1, src=1),
        kernel.loop(3, src=10, wgt=3),
        kernel.loop(3, src=1, wgt=1),
    ):
        kernel.push(0, 0, 0)
    r = Recorder(SHIFT)
    r.gemm("shift", kernel)
    found, count = micro_ops_of(r.build())
    assert (len(found), count) == (4 * 64 * 9, 1)
    assert r.counters.bytes == 4 * 36


def test_sums_of_one_accumulator_wait_for_the_pipeline() -> None:
    kernel = Kernel()
    with kernel.loop(5, src=1):
        kernel.push(0)
    r = Recorder(SHIFT)
    r.gemm("shift", kernel)
    assert micro_ops_of(r.build())[1] == 5


def test_what_cannot_be_recorded_is_named() -> None:
    r = Recorder(SHIFT)
    with pytest.raises(ProgramError, match="at least one iteration, not 0"), Kernel().loop(0):
        pass
    far = Kernel()
    far.push(SHIFT.acc_depth)
    with pytest.raises(ProgramError, match="reaches entry 2048 of buffer acc"):
        r.gemm("shift", far)
    with pytest.raises(ProgramError, match="no ALU operation 'sqrt'"):
        r.alu("sqrt", far)
