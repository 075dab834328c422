"""Cell libraries in Liberty's format: what area, function, load and energy of a cell are.

Only what is asked for is read; timing and everything else is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tvm_shiftadd.errors import InputError
from vta_ext.rtl.energy.functions import Function, parse

#: Comments and continued lines go; then names and numbers, strings, and punctuation.
_PASSED_OVER: Final = re.compile(r"/\*.*?\*/|\\\s*\n", re.DOTALL)
_TOKEN: Final = re.compile(r'"([^"]*)"|([^\s"(){};:,]+)|([(){};:,])')
_FARADS: Final = {"ff": 1e-15, "pf": 1e-12}


@dataclass
class Group:
    """``kind (arguments) { attributes, groups }``."""

    kind: str
    arguments: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, kind: str) -> Iterator[Group]:
        """The groups of a kind in it."""
        return (group for group in self.groups if group.kind == kind)

    def get(self, name: str, default: str = "") -> str:
        """The first value of an attribute."""
        return self.attributes.get(name, (default,))[0]


@dataclass(frozen=True)
class Pin:
    """A pin of a cell. Farad, and joule that the cell takes itself when the pin changes.

    ``function`` is that of a combinational output, and None of every other pin.
    """

    name: str
    output: bool
    capacitance: float
    internal: float
    function: Function | None = None


@dataclass(frozen=True)
class Cell:
    """``area`` in the library's unit, square micrometres as a rule.

    clock, data: pins of a register that takes ``data`` when the clock rises; empty for a gate.
    """

    name: str
    area: float
    pins: Mapping[str, Pin]
    clock: str = ""
    data: str = ""


@dataclass(frozen=True)
class Library:
    """Cells by name, and the volts of the supply."""

    name: str
    volts: float
    cells: Mapping[str, Cell]


def load(path: Path) -> Library:
    """The library in a file. Raises InputError where it cannot be read or is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot read the cell library {path}: {error.strerror}") from error
    try:
        return _library(_parsed(text))
    except (ValueError, IndexError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is no Liberty file of cells: {error}") from error


def _parsed(text: str) -> Group:
    """The outermost group, ``library``."""
    tokens = [
        (match[1] if match[1] is not None else match[2] or match[3], match[1] is not None)
        for match in _TOKEN.finditer(_PASSED_OVER.sub(" ", text))
    ]
    tokens.reverse()
    group = _statement(tokens)
    if not isinstance(group, Group) or group.kind != "library":
        raise ValueError("it does not begin with library (NAME) {")
    return group


def _statement(tokens: list[tuple[str, bool]]) -> Group | tuple[str, tuple[str, ...]]:
    """A group, or an attribute with its values; what it is made of leaves ``tokens``."""
    kind, _ = tokens.pop()
    mark, _ = tokens.pop()
    if mark == ":":
        values = []
        while tokens[-1] != (";", False) and tokens[-1] != ("}", False):
            values.append(tokens.pop()[0])
        if tokens[-1][0] == ";":
            tokens.pop()
        return kind, (" ".join(values),)
    if mark != "(":
        raise ValueError(f"expected : or ( after {kind!r:.40}, got {mark!r:.40}")
    arguments = []
    while (token := tokens.pop()) != (")", False):
        if token != (",", False):
            arguments.append(token[0])
    if not tokens or tokens[-1] != ("{", False):
        if tokens and tokens[-1] == (";", False):
            tokens.pop()
        return kind, tuple(arguments)
    tokens.pop()
    group = Group(kind, tuple(arguments))
    while tokens[-1] != ("}", False):
        if tokens[-1] == (";", False):
            tokens.pop()
            continue
        found = _statement(tokens)
        if isinstance(found, Group):
            group.groups.append(found)
        else:
            group.attributes[found[0]] = found[1]
    tokens.pop()
    return group


def _library(group: Group) -> Library:
    scale, unit = group.attributes["capacitive_load_unit"]
    farad = float(scale) * _FARADS[unit.lower()]
    volt = _volts(group.get("voltage_unit", "1V"))
    # Liberty's unit of internal energy.
    joule = farad * volt**2
    cells = (_cell(cell, farad, joule) for cell in group.all("cell"))
    return Library(
        group.arguments[0],
        float(group.get("nom_voltage")) * volt,
        {cell.name: cell for cell in cells},
    )


def _volts(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)\s*(m?)v", text.strip().lower())
    if found is None:
        raise ValueError(f"voltage_unit {text!r:.20}")
    return float(found[1]) * (1e-3 if found[2] else 1.0)


def _cell(group: Group, farad: float, joule: float) -> Cell:
    registers = list(group.all("ff"))
    state = registers[0].arguments[0] if registers else None
    pins = [_pin(pin, farad, joule, state) for pin in group.all("pin")]
    clock = registers[0].get("clocked_on") if registers else ""
    data = registers[0].get("next_state") if registers else ""
    names = {pin.name for pin in pins}
    # Scan cells and those of falling clocks are not for this: dfflibmap does not need them.
    simple = {clock, data} <= names
    return Cell(
        group.arguments[0],
        float(group.get("area", "0")),
        {pin.name: pin for pin in pins},
        clock if simple else "",
        data if simple else "",
    )


def _pin(group: Group, farad: float, joule: float, state: str | None) -> Pin:
    """``state``: of a register, whose outputs have no function but that of one that inverts it."""
    output = group.get("direction") == "output"
    text = group.get("function")
    return Pin(
        group.arguments[0],
        output,
        float(group.get("capacitance", "0")) * farad,
        _internal(group) * joule,
        parse(text) if output and text not in ("", state) else None,
    )


def _internal(pin: Group) -> float:
    """Of a change of the pin, the mean over the pins that cause it, their states, and directions.

    The first entry of each table: the shortest transition and the smallest load.
    """
    found = [
        float(table.attributes["values"][0].replace(",", " ").split()[0])
        for power in pin.all("internal_power")
        for table in power.groups
        if table.kind in ("rise_power", "fall_power", "power") and "values" in table.attributes
    ]
    return sum(found) / len(found) if found else 0.0
