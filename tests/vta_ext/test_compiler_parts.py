"""Parts of the compiler alone: tokens, residence of fetches, memory plan, pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vta_ext.region_cases import RegionCase
from tvm_shiftadd.errors import DataError, ProgramError
from vta_ext import checker
from vta_ext.compiler import memory
from vta_ext.compiler.compile import compile_network
from vta_ext.compiler.layers import Layer, Region, Tensor, convolution, transposed
from vta_ext.compiler.layout import map_bytes, pack_map, unpack_map
from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.residence import Residence
from vta_ext.compiler.views import View
from vta_ext.isa import instruction as isa
from vta_ext.isa.instruction import TOKENS
from vta_ext.jit.tokens import Entry, assign_tokens
from vta_ext.presets import SHIFT, SMALL
from vta_ext.program import Program, Section, micro_op_section
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor


def entries(tiles: int) -> list[Entry]:
    """Copies of ``tiles`` rows through two places of the buffers, without a token."""
    found = [Entry(isa.load("uop", sram_base=0, dram_base=256, x_size=1))]
    for tile in range(tiles):
        half = tile % 2 * 8
        rows = np.array([[0, 0, 0]], np.int32)
        found += [
            Entry(isa.load("inp", sram_base=half, dram_base=tile * 8, x_size=8)),
            Entry(
                isa.alu(
                    "sha",
                    uops=(0, 1),
                    loops=(2, 8),
                    dst=(half, 1),
                    src=(half, 1),
                    from_inp=True,
                    shift=0,
                    replace=1,
                ),
                rows,
            ),
            Entry(isa.store(sram_base=half, dram_base=32 + tile * 8, x_size=8)),
        ]
        found[-2].instruction = found[-2].instruction.replace(iter_out=1)
        found[-2].rows = rows + np.array([half, half, 0], np.int32)
    return found


def test_tokens_order_two_halves_and_nothing_more() -> None:
    """Loads wait for the passes two tiles before; the first two wait for nothing."""
    rows = np.array([[0, 0, 0], [8, 8, 0]], np.int32)
    plain = []
    for entry in entries(4):
        if entry.rows is not None:
            which = int(entry.rows[0, 0]) // 8
            entry.instruction = entry.instruction.replace(uop_bgn=which, uop_end=which + 1)
        elif entry.instruction.kind.name == "LOAD" and entry.instruction.memory_type.name == "uop":
            entry.instruction = entry.instruction.replace(x_size=2, x_stride=2)
        plain.append(entry)
    ordered = assign_tokens([*plain, Entry(isa.finish())], SHIFT, (512, 1024))
    program = Program(
        SHIFT,
        tuple(entry.instruction for entry in ordered),
        (
            Section("x", "input", 0, 512),
            Section("y", "output", 512, 512),
            micro_op_section("kernels", rows, 1024, SHIFT),
        ),
    )
    assert checker.check(program) == []
    loads = [e.instruction for e in ordered if e.instruction.kind.name == "LOAD"][1:]
    assert [load.pop_next for load in loads] == [0, 0, 1, 1]
    assert [load.push_next for load in loads] == [1, 1, 1, 1]
    without = [e.instruction.replace(**dict.fromkeys(TOKENS, 0)) for e in ordered]
    assert checker.check(Program(SHIFT, tuple(without), program.sections))


def test_a_load_waits_for_a_store_through_the_compute_module() -> None:
    chain = [
        *entries(1),
        Entry(isa.load("inp", sram_base=16, dram_base=32, x_size=8)),
        Entry(isa.finish()),
    ]
    ordered = [e.instruction for e in assign_tokens(chain, SHIFT, (0, 1024))]
    relay = ordered[4]
    assert (relay.kind.name, relay.x_size, relay.pop_next, relay.push_prev) == ("LOAD", 0, 1, 1)
    assert ordered[5].pop_next == 1


def test_a_fetch_that_is_there_is_not_loaded_again() -> None:
    buffer = Residence(100)
    assert buffer.place("a", 40, (), "layer") == (0, True)
    assert buffer.place("b", 50, ("a",), "layer") == (50, True)
    assert buffer.place("a", 40, (), "layer") == (0, False)
    assert buffer.place("c", 30, ("a", "b"), "layer") is None
    # b was used longest ago.
    assert buffer.place("c", 30, (), "layer") == (70, True)
    assert buffer.place("b", 50, ("a", "c"), "layer") is None
    with pytest.raises(RefusedError, match="layer big cannot run"):
        buffer.place("d", 51, (), "big")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 50)), max_size=40))
def test_what_is_kept_is_never_overwritten(requests: list[tuple[int, int]]) -> None:
    buffer, size_of = Residence(100), {}
    held: list[tuple[int, int, int]] = []
    for key, size in requests:
        size = size_of.setdefault(key, size)
        found = buffer.place(key, size, [entry[0] for entry in held], "layer")
        if found is None:
            held.clear()
            continue
        begin = found[0]
        assert 0 <= begin <= 100 - size
        for other, first, last in held:
            assert other == key or last <= begin or begin + size <= first
        held = [*held[-1:], (key, begin, begin + size)]


def test_memory_is_used_again_but_not_while_it_is_read() -> None:
    def tensor(name: str) -> Tensor:
        return Tensor(name, 4, 4, 16)

    def layer(name: str, *sources: str) -> Layer:
        terms = tuple(
            View.of(tensor(source)).term(np.zeros(1, np.int64), "shift") for source in sources
        )
        return Layer(name, tensor(name), terms)

    region = Region(
        (layer("a", "x"), layer("b", "a"), layer("c", "b"), layer("d", "c", "a"), layer("y", "d")),
        (tensor("x"),),
        (tensor("y"),),
    )
    places, total = memory.plan(region, SHIFT, 256)
    assert sorted(places) == ["a", "b", "c", "d"]
    assert total == 3 * map_bytes(tensor("a"), SHIFT)
    assert len({places["a"], places["b"], places["c"]}) == 3
    assert places["d"] not in (places["a"], places["c"])


@pytest.mark.parametrize("config", [SHIFT, SMALL], ids=["16", "8"])
def test_maps_come_back_as_they_went(config: object) -> None:
    array = np.random.default_rng(0).integers(-128, 128, (3, 5, 21)).astype(np.int8)
    data = pack_map(array[None], config)  # type: ignore[arg-type]
    tensor = Tensor("x", 3, 5, 21)
    assert len(data) == map_bytes(tensor, config)  # type: ignore[arg-type]
    np.testing.assert_array_equal(unpack_map(data, tensor, config)[0], array)  # type: ignore[arg-type]


def test_windows() -> None:
    window = convolution((1, 2), (3, 1), (1, 2, 0, 0), (1, 2))
    assert window.phases[0].taps == ((-1, -2, 0), (-1, 0, 1))
    up = transposed((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    assert [len(phase.taps) for phase in up.phases] == [1, 2, 2, 4]


def test_wrong_inputs_and_machines_are_refused() -> None:
    c = RegionCase(np.random.default_rng(0))
    x = c.input(4, 4, 16)
    region = compile_network(c.network(c.requantize(x)), SHIFT)
    executor = RegionExecutor(region, SimulatorDevice(SHIFT))
    for feeds in (
        {},
        {x: np.zeros((1, 4, 4, 16), np.uint8)},
        {x: np.zeros((1, 4, 5, 16), np.int8)},
    ):
        with pytest.raises(DataError, match=f"expected input {x} of int8"):
            executor.run(feeds)
    assert executor.run({x: np.zeros((0, 4, 4, 16), np.int8)})["requantize0"].shape == (0, 4, 4, 16)
    with pytest.raises(ProgramError, match="compile it for this device"):
        RegionExecutor(region, SimulatorDevice(SMALL))


def test_loads_of_kernels_ahead_leave_layers_in_one_piece() -> None:
    c = RegionCase(np.random.default_rng(0))
    y = c.input(14, 14, 24)
    for outputs in (40, 32, 24):
        y = c.requantize(c.conv2d(y, outputs))
    region = c.verify(SMALL, y)
    names = [layer.name for layer in region.layers]
    assert names == ["requantize1", "requantize3", "requantize5", "finish"]
    loads = [i for i in region.program.instructions if i.kind.name == "LOAD"]
    kernels = [load.prefetch for load in loads if load.memory_type.name == "uop" and load.x_size]
    assert len(kernels) - sum(kernels) == 1 and len(kernels) > 2


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_queues_may_be_short(depth: int) -> None:
    """Tokens are given later, or by instructions that do nothing else, where a queue is full."""
    c = RegionCase(np.random.default_rng(0))
    y = c.requantize(c.conv2d(c.input(20, 20, 32), 48))
    z = c.requantize(c.conv2d(y, 32, strides=(2, 2)))
    config = replace(SHIFT, log_queue_depth=depth, log_inp_buff_size=12, log_acc_buff_size=14)
    c.verify(config, z)
