"""Regions as files: what comes back, what it computes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vta_ext.region_cases import RegionCase
from tvm_shiftadd.errors import ProgramError
from vta_ext.compiler.compile import compile_network
from vta_ext.compiler.layout import map_bytes
from vta_ext.config import Config
from vta_ext.host import HostPart, HostStep, HostTensor
from vta_ext.presets import SHIFT, SMALL
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor
from vta_ext.runtime.stored import TABLE, StoredRegion, decode, encode

Table = dict[str, Any]


def region(config: Config = SHIFT, function: str = "vta_region_000") -> StoredRegion:
    """A convolution whose input the host arranges, and a copy of that input."""
    c = RegionCase(np.random.default_rng(0))
    x = c.input(6, 6, 3)
    y = c.requantize(c.conv2d(x, 5))
    network = c.network(y, c.requantize(x))
    return StoredRegion.of(function, network, compile_network(network, config))


@pytest.fixture(scope="module")
def stored() -> StoredRegion:
    return region()


@pytest.fixture(scope="module")
def files(stored: StoredRegion) -> dict[str, bytes]:
    return encode([stored, region(function="vta_region_001")], SHIFT)


def test_what_comes_back(stored: StoredRegion, files: dict[str, bytes]) -> None:
    assert sorted(files) == ["region-000.vta", "region-001.vta", TABLE]
    config, (first, second), host = decode(files)
    assert host is None
    assert config == SHIFT
    assert second.function == "vta_region_001"
    assert first.program == stored.program
    assert (first.inputs, first.outputs) == (stored.inputs, stored.outputs)
    assert (first.arguments, first.results) == (stored.arguments, stored.results)
    assert {binding.patches is None for binding in first.inputs} == {True, False}
    x = np.random.default_rng(1).integers(-128, 128, (2, 6, 6, 3)).astype(np.int8)
    name = stored.arguments[0].name
    wanted, found = (
        RegionExecutor(one, SimulatorDevice(SHIFT)).run({name: x}) for one in (stored, first)
    )
    for result in stored.results:
        np.testing.assert_array_equal(found[result.name], wanted[result.name])


def test_what_the_host_does_comes_back(stored: StoredRegion) -> None:
    name, result = stored.arguments[0].name, stored.results[0].name
    step = HostStep("quantize", "x", HostTensor(name, (6, 6, 3), "int8"), (4,))
    host = HostPart((HostTensor("x", (6, 6, 3), "float32"),), (step,), (result,))
    assert decode(encode([stored], SHIFT, host))[2] == host


def test_no_regions() -> None:
    assert decode(encode([], SMALL)) == (SMALL, (), None)


def first(table: Table) -> Table:
    found: Table = table["regions"][0]
    return found


def patched(table: Table) -> Table:
    """The input that is arranged by the host."""
    found: Table = next(port for port in first(table)["inputs"] if port["patches"])
    return found


#: A change of the table, and the words it is refused with.
CHANGES: dict[str, tuple[Callable[[Table], object], str]] = {
    "version": (lambda t: t.update(version=2), "version 2"),
    "hash": (lambda t: t.update(hash="0" * 16), "compile the model again"),
    "machine": (lambda t: t["configuration"].update(LOG_BLOCK=3), "compile the model again"),
    "nonsense": (lambda t: t["configuration"].update(LOG_BLOCK="x"), "LOG_BLOCK must be"),
    "unknown": (lambda t: t.update(surprise=1), "unknown field"),
    "function": (lambda t: first(t).update(function="runtime.free"), "no name of a region"),
    "same function": (lambda t: first(t).update(function="vta_region_001"), "lists the pro"),
    "program": (lambda t: first(t).update(program="../x.vta"), "lists the programs"),
    "section": (lambda t: first(t)["inputs"][0].update(section="kernels"), "the table says input"),
    "no section": (lambda t: first(t)["inputs"][0].update(section="x"), "no section 'x'"),
    "height": (lambda t: first(t)["outputs"][0]["tensor"].update(height=7), "the table says out"),
    "huge": (lambda t: first(t)["outputs"][0]["tensor"].update(height=1 << 40), "has the shape"),
    "type": (lambda t: first(t)["outputs"][0]["tensor"].update(dtype="object"), "has the shape"),
    "shape": (lambda t: first(t)["results"][0].update(shape=[1]), "not what the table makes"),
    "no shape": (lambda t: first(t)["results"][0].update(shape=[]), "compile again"),
    "results": (lambda t: first(t).update(results=[]), "results are not its outputs"),
    "arguments": (lambda t: first(t).update(arguments=[]), "not what the table makes"),
    "taps": (lambda t: patched(t)["patches"].update(taps=[[0, 0, 0]]), "does not make"),
    "place": (lambda t: patched(t)["patches"]["taps"][0].__setitem__(2, 99), "does not make"),
    "far": (lambda t: patched(t)["patches"]["taps"][0].__setitem__(0, 1 << 40), "does not make"),
    "stride": (lambda t: patched(t)["patches"].update(stride=[0, 1]), "does not make"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_altered_tables_are_refused(name: str, files: dict[str, bytes]) -> None:
    change, words = CHANGES[name]
    table = json.loads(files[TABLE])
    change(table)
    with pytest.raises(ProgramError, match=words):
        decode({**files, TABLE: json.dumps(table).encode()})


def test_missing_foreign_and_broken_files(files: dict[str, bytes]) -> None:
    foreign = encode([region(SMALL)], SMALL)
    cases: list[tuple[dict[str, bytes], str]] = [
        ({k: v for k, v in files.items() if k != TABLE}, "regions.json is missing"),
        ({k: v for k, v in files.items() if "001" not in k}, "but there are region-000.vta"),
        ({**files, "extra.vta": b""}, "but there are extra.vta"),
        ({**files, TABLE: b"["}, "regions.json is damaged"),
        ({**files, TABLE: b"[" * 100_000}, "regions.json is damaged"),
        ({**files, "region-001.vta": files["region-001.vta"][:-1]}, "region-001.vta: .*truncated"),
        ({**files, "region-000.vta": foreign["region-000.vta"]}, "region-000.vta: .*compile it"),
    ]
    for changed, words in cases:
        with pytest.raises(ProgramError, match=words):
            decode(changed)


def test_any_table_is_read_or_refused(files: dict[str, bytes]) -> None:
    """A few bytes of the table replaced: what is still accepted has borders that fit."""

    @given(st.data())
    def alter(data: st.DataObject) -> None:
        table = bytearray(files[TABLE])
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(table) - 1))
            table[place] = data.draw(st.sampled_from(b'0123456789-,.:[]{}"ax'))
        try:
            _, regions, _ = decode({**files, TABLE: bytes(table)})
        except ProgramError:
            return
        for one in regions:
            for binding in (*one.inputs, *one.outputs):
                size = one.program.section(binding.section).size
                assert map_bytes(binding.tensor, SHIFT) == size

    alter()
