"""Energy in cells of a library: a small one written here, figures that can be added up by hand."""

from __future__ import annotations

import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from tvm_shiftadd.errors import DependencyError, DeviceError, InputError
from tvm_shiftadd.formats import codes, packing
from vta_ext.rtl import rows
from vta_ext.rtl.energy import liberty, measure, netlist, operands
from vta_ext.rtl.energy.__main__ import main
from vta_ext.rtl.energy.activity import Activity, Simulator
from vta_ext.rtl.energy.functions import parse

#: Two volts, and loads in femtofarad: a change of a net costs 2 fJ for each of them.
LIBRARY = """
/* Three cells. */
library (three) {
  capacitive_load_unit (1, ff); voltage_unit : "1V"; nom_voltage : 2.0;
  cell (INV) {
    area : 1;
    pin (A) { direction : input; capacitance : 1.0; }
    pin (Y) { direction : output; function : "A'"; internal_power () { related_pin : "A";
      rise_power (t) { values ("3, 9", \\
        "9, 9"); } fall_power (t) { values ("5, 9"); } } }
  }
  cell (NAND) {
    area : 2;
    pin (A) { direction : input; capacitance : 2.0; }
    pin (B) { direction : input; capacitance : 3.0; }
    pin (Y) { direction : output; function : "!(A & B)"; timing () { related_pin : "A"; } }
  }
  cell (REGISTER) {
    area : 5;
    ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }
    pin (CK) { direction : input; clock : true; capacitance : 1.5;
      internal_power () { power (t) { values ("0.25"); } } }
    pin (D) { direction : input; capacitance : 0.5; }
    pin (Q) { direction : output; function : "IQ"; }
  }
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "three.lib"
    path.write_text(LIBRARY)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!a & b", lambda a, b, c: (1 - a) & b),
        ("a' b + c", lambda a, b, c: (1 - a) & b | c),
        ("a + b * c", lambda a, b, c: a | b & c),
        ("a * b ^ c", lambda a, b, c: a & (b ^ c)),
        ("(a | b)' ^ c", lambda a, b, c: 1 - (a | b) ^ c),
        ("!(a b c)", lambda a, b, c: 1 - (a & b & c)),
        ("(a) (1) | 0 & b", lambda a, b, c: a),
    ],
)
def test_functions(text: str, expected: object) -> None:
    assert callable(expected)
    function = parse(text)
    for a, b, c in product((0, 1), repeat=3):
        values = [{"a": a, "b": b, "c": c}[name] for name in function.pins]
        # Eight lanes of the same.
        assert function.evaluate([255 * v for v in values], 255) == 255 * expected(a, b, c)


@pytest.mark.parametrize("text", ["", "a &", "(a", "a)", "a ? b", "& a"])
def test_what_is_no_function(text: str) -> None:
    with pytest.raises(InputError, match=r"has a function .* unexpected"):
        parse(text)


def test_a_library_is_read(path: Path) -> None:
    found = liberty.load(path)
    assert (found.name, found.volts) == ("three", 2.0)
    inverter, register = found.cells["INV"], found.cells["REGISTER"]
    assert (inverter.area, inverter.clock) == (1.0, "")
    assert inverter.pins["A"].capacitance == pytest.approx(1e-15)
    # The mean of both directions, the first entry of each table.
    assert inverter.pins["Y"].internal == pytest.approx(4e-15)
    assert (register.clock, register.data) == ("CK", "D")
    assert register.pins["CK"].internal == pytest.approx(0.25e-15)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no Liberty file"),
        ("cell (x) { }", "does not begin with library"),
        ("library (x) { cell (y) {", "is no Liberty file"),
        ("library (x) { nom_voltage : 1; }", "capacitive_load_unit"),
        (LIBRARY.replace('"1V"', '"1A"'), "voltage_unit '1A'"),
        (LIBRARY.replace("A & B", "A & & B"), "has a function"),
    ],
)
def test_what_is_no_library(text: str, said: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        liberty.load(path)


def chain(path: Path) -> netlist.Netlist:
    """A register of ``d``, and q NAND (q inverted twice): yosys's JSON of it."""
    module = {
        "ports": {"clk": {"bits": [2]}, "d": {"bits": [3]}, "y": {"bits": [7]}},
        "cells": {
            "r": {"type": "REGISTER", "connections": {"CK": [2], "D": [3], "Q": [4]}},
            "one": {"type": "INV", "connections": {"A": [4], "Y": [5]}},
            "two": {"type": "INV", "connections": {"A": [5], "Y": [6]}},
            "nand": {"type": "NAND", "connections": {"A": [4], "B": [5], "Y": [7]}},
        },
    }
    return netlist._netlist(module, liberty.load(path))


def test_changes_are_counted_with_glitches(path: Path) -> None:
    """q NAND (not q) is 1, but for a step after q has risen."""
    made = chain(path)
    assert made.area == 5 + 1 + 1 + 2
    simulator = Simulator(made, lanes=2)
    simulator.cycle({"d": [0]})
    assert simulator.port("y") == [3]
    # The first lane rises and falls, the second one rises.
    activity = simulator.measure({"d": [d]} for d in (3, 2, 2))
    assert activity.settled == (0, 0, 0, 3, 3, 3, 3, 0)
    assert activity.all == (0, 0, 0, 3, 3, 3, 3, 4)


def test_energy_adds_up(path: Path) -> None:
    """Two cycles of one lane, in which nets 4 to 6 change once and y twice."""
    made, library = chain(path), liberty.load(path)
    found = measure._energy(made, library, (0, 0, 0, 1, 1, 1, 1, 2), cycles=2, done=1)
    # Loads: d 0.5, q 1 + 2, its inverse 1 + 3, and none of the others; V^2/2 is 2.
    assert found.switching == pytest.approx(2 * (0.5 + 3 + 4) * 1e-15)
    assert found.internal == pytest.approx(2 * 4e-15)
    assert found.clock == pytest.approx(4 * (2 * 1.5 + 0.25) * 1e-15)
    assert found.total == pytest.approx(found.switching + found.internal + found.clock)


def test_cells_that_are_not_in_the_library_are_named(path: Path) -> None:
    module = {"ports": {}, "cells": {"g": {"type": "$_DLATCH_P_", "connections": {}}}}
    with pytest.raises(DeviceError, match=r"\$_DLATCH_P_"):
        netlist._netlist(module, liberty.load(path))


def test_bits_of_ports_and_back() -> None:
    values = np.random.default_rng(0).integers(-256, 256, (70, 3))
    bits = operands.port(values, 9)
    assert len(bits) == 27
    for lane in range(3):
        assert np.array_equal(operands.number(bits[9 * lane : 9 * lane + 9], 70), values[:, lane])


def test_operands_are_drawn() -> None:
    given = operands.draw(lanes=5, cycles=10, block=16, reuse=4)
    assert given.inputs.shape == given.weights.shape == (5, 10, 16)
    assert given.inputs.min() == 0
    assert (given.weights[:, 0] == given.weights[:, 3]).all()
    assert (given.weights[:, 3] != given.weights[:, 4]).any()
    bits, values = operands.as_mode(np.array([-96, -2, 0, 3, 47, 49]), "shift")
    assert list(values) == [-64, -2, 0, 2, 32, 64]
    assert list(bits) == [15, 10, 0, 2, 6, 7]


def test_weights_of_an_artifact(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).choice(codes.representable(2), (37, 3))
    packed = packing.pack(codes.encode(weights.astype(np.int32), 2))
    file = tmp_path / "weights.safetensors"
    save_file({"layer.codes": packed, "layer.bias": np.zeros(3, np.int32)}, file)
    found = operands.weights_of(file, 16)
    assert np.array_equal(found, weights.T[:, :32].reshape(-1, 16))
    with pytest.raises(InputError, match="no codes of layers with 64 weights"):
        operands.weights_of(file, 64)


def test_wrong_sums_are_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulator that stands still."""
    still = Activity((), ())
    monkeypatch.setattr(Simulator, "cycle", lambda self, ports: None)
    monkeypatch.setattr(Simulator, "measure", lambda self, stimuli: still)
    monkeypatch.setattr(Simulator, "port", lambda self, name: [0] * 32)
    row = rows.AccumulatingRow(("shift",))
    given = operands.draw(lanes=2, cycles=2, block=16, reuse=1)
    with pytest.raises(DeviceError, match="sums are wrong in mode shift"):
        measure.simulate(chain(path), row, 0, "shift", given)


def test_what_is_missing_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(DependencyError, match="apt install yosys"):
            netlist.native_yosys()
    for arguments, said in (
        (["--liberty", "no.lib"], "cannot read the cell library no.lib: No such file"),
        (["--liberty", str(path), "--weights", "no.file"], "cannot read the weights no.file"),
        (["--liberty", str(path), "--lanes", "0"], "expected 1 or more, got 0"),
        ([], "required: --liberty"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert re.search(f"error: .*{said}", capsys.readouterr().err)


def mappable() -> str:
    """The library with what ABC asks for: a buffer, and delays."""
    delays = "".join(
        f'{kind} (t) {{ values ("0.1, 0.2", "0.2, 0.3"); }} '
        for kind in ("cell_rise", "rise_transition", "cell_fall", "fall_transition")
    )

    def timing(*pins: str) -> str:
        return "".join(f"timing () {{ related_pin : {pin}; {delays}}} " for pin in pins)

    template = (
        'lu_table_template (t) { variable_1 : input_net_transition; index_1 ("0.1, 0.2"); '
        'variable_2 : total_output_net_capacitance; index_2 ("1, 2"); }'
    )
    buffer = (
        "cell (BUFFER) { area : 2; pin (A) { direction : input; capacitance : 1; } "
        f'pin (Y) {{ direction : output; function : "A"; {timing("A")}}} }}'
    )
    text = LIBRARY.replace("  cell (INV)", f"  {template}\n  {buffer}\n  cell (INV)")
    text = text.replace('function : "A\'";', f'function : "A\'"; {timing("A")}')
    return text.replace('timing () { related_pin : "A"; } }', f"{timing('A', 'B')}}}")


@pytest.mark.rtl
def test_a_shift_row_takes_less_than_a_multiplier(path: Path) -> None:
    """In three cells; the simulated netlists' sums are right, or there would be an error."""
    try:
        netlist.native_yosys()
    except DependencyError as error:
        pytest.skip(str(error))
    path.write_text(mappable())
    library = liberty.load(path)
    given = operands.draw(lanes=16, cycles=4, block=16, reuse=2)
    (multiply,) = measure.row_energies(("multiply",), path, library, given)
    (shift,) = measure.row_energies(("shift",), path, library, given)
    assert shift.area < 0.7 * multiply.area
    assert shift.settled.total < 0.8 * multiply.settled.total
    for found in (multiply, shift):
        assert found.whole.clock == found.settled.clock
        assert found.whole.total > found.settled.total
