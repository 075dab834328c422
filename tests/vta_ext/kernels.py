"""Programs written by hand, and what they compute in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.formats import codes as term_codes
from vta_ext.builder import ProgramBuilder
from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import Instruction, Tokens
from vta_ext.isa.machine import pack_codes
from vta_ext.program import Program, Section
from vta_ext.sim.functional import FunctionalSimulator


@dataclass(frozen=True)
class Case:
    """A program, its inputs by section, and the bytes each output section must hold."""

    program: Program
    inputs: dict[str, NDArray[np.generic]]
    expected: dict[str, NDArray[np.generic]]

    def run(self) -> dict[str, NDArray[np.generic]]:
        simulator = FunctionalSimulator(self.program.config, self.program.dram_bytes)
        simulator.place(self.program)
        for name, values in self.inputs.items():
            simulator.write(self.program.section(name).offset, values)
        simulator.run(self.program.instructions)
        found = {}
        for name, values in self.expected.items():
            section = self.program.section(name)
            raw = np.frombuffer(simulator.read(section.offset, section.size), values.dtype)
            found[name] = raw.reshape(values.shape)
        return found


def load(
    b: ProgramBuilder,
    memory: str,
    section: Section,
    count: int,
    *,
    first: int = 0,
    at: int = 0,
    **more: Any,
) -> Instruction:
    """LOAD of ``count`` elements of a section, from ``first`` on, to the entries from ``at`` on."""
    place = b.element(section, memory, first)
    return isa.load(memory, sram_base=at, dram_base=place, x_size=count, **more)


def store(
    b: ProgramBuilder,
    section: Section,
    count: int,
    *,
    memory: str = "out",
    first: int = 0,
    at: int = 0,
    tokens: Tokens,
) -> Instruction:
    """STORE of ``count`` entries from ``at`` on to the elements of a section from ``first`` on."""
    place = b.element(section, memory, first)
    return isa.store(memory, sram_base=at, dram_base=place, x_size=count, tokens=tokens)


def weights(mode: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int8]:
    """Integer weights, or uint8 term codes in shift mode."""
    if mode == "shift":
        return rng.choice(np.delete(np.arange(16), 8), shape).astype(np.uint8)
    return rng.integers(-128, 128, shape).astype(np.int8)


def combine(mode: str, x: NDArray[np.int64], w: NDArray[np.generic]) -> NDArray[np.int64]:
    """Accumulators ``[M, O]`` of inputs ``[M, I]`` and weights ``[I, O]``."""
    if mode == "adder":
        return -np.abs(x[:, :, None] - w[None].astype(np.int64)).sum(axis=1)
    return x @ (term_codes.DECODE_TABLE[w] if mode == "shift" else w).astype(np.int64)


def requantized(
    acc: NDArray[np.int64], bias: NDArray[np.int32], shift: NDArray[np.int32], lo: int, hi: int
) -> NDArray[np.int64]:
    """Bias, rounding shift and clip by the formula of the integer specification."""
    total = acc + bias
    half = np.where(shift >= 1, 1 << np.maximum(shift - 1, 0), 0)
    moved = np.where(
        shift >= 0, (total + half) >> np.maximum(shift, 0), total << -np.minimum(shift, 0)
    )
    return np.clip(moved, lo, hi)


def blocked_gemm(
    config: Config, mode: str, rows: int, blocks_in: int, blocks_out: int, seed: int = 0
) -> Case:
    """``rows`` x (block * blocks_in) times a matrix, double-buffered, then requantised.

    Machines without the fused operation clear accumulators and take VTA's three passes.
    """
    rng = np.random.default_rng(seed)
    block = config.block
    x = rng.integers(-128, 128, (rows, blocks_in * block)).astype(np.int8)
    w = weights(mode, (blocks_in * block, blocks_out * block), rng)
    bias = rng.integers(-1000, 1000, blocks_out * block).astype(np.int32)
    shift = rng.integers(4, 10, blocks_out * block).astype(np.int32)
    fused = "req" in config.alu_ops
    if not fused:
        bias[:], shift[:] = 0, 7

    b = ProgramBuilder(config)
    # Inputs [blocks_in, rows, block]; weights [blocks_in, blocks_out, block (out), block (in)].
    tiles = w.reshape(blocks_in, block, blocks_out, block).transpose(0, 2, 3, 1)
    memory = "code" if mode == "shift" else "wgt"
    packed = pack_codes(tiles) if memory == "code" else tiles
    source = b.input("x", x.size)
    matrix = b.constant("w", packed)
    target = b.output("y", rows * blocks_out * block)
    parameters = np.stack([bias.reshape(-1, block), shift.reshape(-1, block)], axis=1)
    table = b.constant("parameters", parameters)

    b.label("gemm")
    kernels = [
        b.kernel([[n * rows, half * rows, half * blocks_out + n] for n in range(blocks_out)])
        for half in (0, 1)
    ]
    spare = rows * blocks_out
    passes = [b.kernel([[n * rows, spare + 2 * n, 0]]) for n in range(blocks_out)]
    b.load_kernels()
    if fused:
        b.append(load(b, "acc", table, 2 * blocks_out, at=spare))
    else:
        b.append(isa.gemm(mode, uops=kernels[0], loops=(1, rows), dst=(0, 1), accumulate="clear"))
    for step in range(blocks_in):
        half = step % 2
        b.append(
            load(
                b,
                "inp",
                source,
                rows,
                first=step * rows,
                at=half * rows,
                tokens=Tokens(pop_next=step >= 2),
            ),
            load(
                b,
                memory,
                matrix,
                blocks_out,
                first=step * blocks_out,
                at=half * blocks_out,
                tokens=Tokens(push_next=True),
            ),
            isa.gemm(
                mode,
                uops=kernels[half],
                loops=(1, rows),
                dst=(0, 1),
                src=(0, 1),
                accumulate="replace" if fused and step == 0 else "add",
                tokens=Tokens(pop_prev=True, push_prev=step + 2 < blocks_in),
            ),
        )
    b.label("requantise")
    for n in range(blocks_out):
        last = Tokens(push_next=n == blocks_out - 1)
        if fused:
            b.append(
                isa.alu(
                    "req", uops=passes[n], loops=(1, rows), dst=(0, 1), lo=0, hi=127, tokens=last
                )
            )
            continue
        b.append(isa.alu("shr", uops=passes[n], loops=(1, rows), dst=(0, 1), imm=7))
        b.append(isa.alu("max", uops=passes[n], loops=(1, rows), dst=(0, 1), imm=0))
        b.append(isa.alu("min", uops=passes[n], loops=(1, rows), dst=(0, 1), imm=127, tokens=last))
    b.append(
        store(b, target, rows * blocks_out, tokens=Tokens(pop_prev=True, push_prev=True)),
        isa.finish(Tokens(pop_next=True)),
    )
    acc = combine(mode, x.astype(np.int64), w)
    y = requantized(acc, bias, shift, 0, 127) if fused else np.clip(acc >> 7, 0, 127)
    laid_out = x.reshape(rows, blocks_in, block).transpose(1, 0, 2)
    expected = y.reshape(rows, blocks_out, block).transpose(1, 0, 2).astype(np.int8)
    return Case(b.build(), {"x": laid_out}, {"y": expected})


def vector_add(config: Config, count: int = 24, seed: int = 0) -> Case:
    """VTA's first tutorial: two int32 vectors, added; the low eight bits are stored."""
    rng = np.random.default_rng(seed)
    one, other = rng.integers(-64, 64, (2, count, config.block)).astype(np.int32)
    b = ProgramBuilder(config)
    sections = [b.input("a", one.nbytes), b.input("b", other.nbytes)]
    target = b.output("c", count * config.block)
    kernel = b.kernel([[0, count, 0]])
    b.load_kernels()
    for number, section in enumerate(sections):
        b.append(load(b, "acc", section, count, at=number * count))
    b.append(
        isa.alu(
            "add",
            uops=kernel,
            loops=(1, count),
            dst=(0, 1),
            src=(0, 1),
            tokens=Tokens(push_next=True),
        ),
        store(b, target, count, tokens=Tokens(pop_prev=True, push_prev=True)),
        isa.finish(Tokens(pop_next=True)),
    )
    return Case(b.build(), {"a": one, "b": other}, {"c": (one + other).astype(np.int8)})


def depthwise(
    config: Config, size: int = 6, blocks: int = 2, terms: int = 2, seed: int = 0
) -> Case:
    """A 3 x 3 depthwise layer, padding 1, of uint8 maps ``[blocks, size, size, block]``.

    Each tap of each term is one lane-wise shift-accumulate pass over the map.
    """
    rng = np.random.default_rng(seed)
    block = config.block
    x = rng.integers(0, 256, (blocks, size, size, block)).astype(np.uint8)
    codes = weights("shift", (blocks, terms * 9, block), rng)
    bias = rng.integers(-1000, 1000, (blocks, block)).astype(np.int32)
    shift = rng.integers(0, 8, (blocks, block)).astype(np.int32)

    b = ProgramBuilder(config)
    source, target = b.input("x", x.size), b.output("y", x.size)
    # An entry of the weight buffer has `block` rows of codes.
    entries = -(-terms * 9 // block)
    rows = np.zeros((blocks, entries * block, block), np.uint8)
    rows[:, : terms * 9] = codes
    matrix = b.constant("codes", pack_codes(rows))
    table = b.constant("parameters", np.stack([bias, shift], axis=1))
    area, padded = size * size, (size + 2) ** 2
    taps = [b.kernel([[0, (size + 2) * ky + kx, 0]]) for ky in range(3) for kx in range(3)]
    final = b.kernel([[0, area, 0]])
    b.load_kernels()
    for n in range(blocks):
        b.label(f"block{n}")
        b.append(
            load(
                b,
                "inp",
                source,
                size,
                first=n * area,
                y_size=size,
                y_pad=(1, 1),
                x_pad=(1, 1),
                unsigned=True,
                tokens=Tokens(pop_next=n > 0),
            ),
            load(b, "code", matrix, entries, first=n * entries, tokens=Tokens(push_next=True)),
            load(
                b,
                "acc",
                table,
                2,
                first=2 * n,
                at=area,
                tokens=Tokens(pop_prev=True, pop_next=n > 0),
            ),
        )
        b.append(
            *(
                isa.alu(
                    "lsa",
                    uops=taps[number % 9],
                    loops=(size, size),
                    dst=(size, 1),
                    src=(size + 2, 1),
                    from_inp=True,
                    row=number,
                    replace=number == 0,
                )
                for number in range(terms * 9)
            ),
            isa.alu(
                "requ",
                uops=final,
                loops=(1, area),
                dst=(0, 1),
                lo=0,
                hi=255,
                tokens=Tokens(push_prev=n < blocks - 1, push_next=True),
            ),
            store(b, target, area, first=n * area, tokens=Tokens(pop_prev=True, push_prev=True)),
        )
    b.append(isa.finish(Tokens(pop_next=True)))
    assert padded <= config.inp_depth
    wide = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    acc = np.zeros(x.shape, np.int64)
    for number in range(terms * 9):
        ky, kx = divmod(number % 9, 3)
        factor = term_codes.DECODE_TABLE[codes[:, number]].astype(np.int64)
        acc += wide[:, ky : ky + size, kx : kx + size] * factor[:, None, None]
    y = requantized(acc, bias[:, None, None], shift[:, None, None], 0, 255)
    return Case(b.build(), {"x": x}, {"y": y.astype(np.uint8)})


def residual_pool(config: Config, seed: int = 0) -> Case:
    """``a + (b << 2)``, a 2 x 2 average by a shift-add reciprocal of 3/4, and 32-bit results."""
    rng = np.random.default_rng(seed)
    a, c = rng.integers(-128, 128, (2, 16, config.block)).astype(np.int8)
    b = ProgramBuilder(config)
    first, second = b.input("a", a.size), b.input("b", c.size)
    target, wide = b.output("y", 4 * config.block), b.output("wide", 4 * 4 * config.block)
    each = b.kernel([[16, 0, 0]])
    copy = b.kernel([[4, 0, 0]])
    b.load_kernels()
    b.append(
        load(b, "inp", first, 16),
        load(b, "inp", second, 16, at=16, tokens=Tokens(push_next=True)),
    )
    loop = {"loops": (1, 16), "dst": (0, 1), "src": (0, 1), "from_inp": True}
    second_map = b.kernel([[16, 16, 0]])
    b.append(
        isa.alu("sha", uops=each, replace=1, tokens=Tokens(pop_prev=True), **loop),
        isa.alu("sha", uops=second_map, shift=2, **loop),
    )
    for tap in range(4):
        b.append(
            isa.alu(
                "sha",
                uops=b.kernel([[0, 16 + tap, 0]]),
                loops=(1, 4),
                dst=(0, 1),
                src=(0, 4),
                replace=int(tap == 0),
            )
        )
    four = {"loops": (1, 4), "dst": (0, 1), "src": (0, 1)}
    b.append(
        # 3/4 of a fourth: (s << 1) + s, then a rounding shift by 4.
        isa.alu("sha", uops=copy, shift=1, replace=1, **four),
        isa.alu("add", uops=copy, **four),
        isa.alu("rshr", uops=b.kernel([[4, 0, 0]]), loops=(1, 4), dst=(0, 1), imm=4),
        isa.alu(
            "clip",
            uops=b.kernel([[4, 0, 0]]),
            loops=(1, 4),
            dst=(0, 1),
            lo=-128,
            hi=127,
            tokens=Tokens(push_next=True),
        ),
        store(b, target, 4, at=4, tokens=Tokens(pop_prev=True)),
        store(b, wide, 4, memory="acc", tokens=Tokens(push_prev=True)),
        isa.finish(Tokens(pop_next=True)),
    )
    total = a.astype(np.int32) + (c.astype(np.int32) << 2)
    sums = total.reshape(4, 4, -1).sum(axis=1, dtype=np.int32)
    y = np.clip((3 * sums + 8) >> 4, -128, 127).astype(np.int8)
    return Case(b.build(), {"a": a, "b": c}, {"y": y, "wide": sums})
