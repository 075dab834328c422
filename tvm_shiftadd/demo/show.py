"""The demo's pages: tables and sentences for somebody who sees all this for the first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvm_shiftadd.demo.weight import Weight, power_of_two
from tvm_shiftadd.evaluation import Evaluation

#: An activation for the sum that is worked out; any int8 would do.
EXAMPLE = 77

#: Kinds of numbers in the table of unit energies that none of the three forms uses.
_UNUSED = ("int16",)

_OPERATORS = {
    "conv2d": "convolution",
    "dense": "dense",
    "add": "residual addition",
    "max_pool2d": "max pooling",
    "avg_pool2d": "average pooling",
}


def heading(console: Console, number: int, title: str, text: str) -> None:
    """A numbered step with a sentence or two."""
    console.print()
    console.print(Text(f"{number}. {title}", style="bold"))
    console.print(Text(text), width=min(console.width, 88))


def network(console: Console, costs: Mapping[str, Any]) -> None:
    """The layers, and what each multiplies and keeps before the conversion."""
    table = _table("layer", "kind", ">multiplications", ">weights")
    for layer in costs["layers"]:
        if layer["op"] in _OPERATORS:
            kind = _OPERATORS[layer["op"]]
            table.add_row(layer["name"], kind, _count(layer["macs"]), _count(layer["weights"]))
    console.print(table)


def weight(console: Console, one: Weight) -> None:
    """One weight's way, and one product worked out."""
    table = _table("step", "value", "what it is", header=False)
    unit = 2.0**-one.exponent
    codes = " ".join(f"{code:04b}" for code in one.codes)
    table.add_row(
        "float", f"{one.before:+.6f}", "as trained, batch norm and channel scales folded in"
    )
    table.add_row("unit", power_of_two(-one.exponent), "one for each output channel")
    table.add_row(
        "float / unit", f"{one.before / unit:+.3f}", "what the shifts have to come close to"
    )
    table.add_row("powers of two", one.as_powers(), "at most two for each weight here")
    table.add_row("stored", codes, "four bits a term: a sign, then 1 + the shift")
    table.add_row("integer", f"{one.integer:+d}", "what the powers of two add up to")
    table.add_row("back to float", f"{one.after:+.6f}", f"error {_percent_error(one)}")
    console.print(table)
    product = one.times(EXAMPLE)
    console.print(
        Text(
            f"An activation of {EXAMPLE} times this weight: {one.as_shifts(str(EXAMPLE))} = "
            f"{product}, which is {EXAMPLE} * ({one.integer}) without a multiplier."
        ),
        width=min(console.width, 88),
    )


def accuracy(console: Console, result: Evaluation) -> None:
    """Float beside shift-add."""
    table = _table("network", ">right answers")
    table.add_row("float", _percent(result.float_top1))
    table.add_row("shift-add", _percent(result.shiftadd_top1))
    table.add_row("both name the same digit", _percent(result.agreement))
    console.print(table)


def energy(console: Console, costs: Mapping[str, Any]) -> None:
    """Operations, bytes and energy of one image, with the source of the figures."""
    forms = [costs["operations"][form] for form in ("float32", "int8", "shift_add")]
    table = _table("for one image", ">float32", ">int8", ">shift-add")
    for title, key in (("multiplications", "multiplies"), ("additions", "adds"), ("shifts",) * 2):
        table.add_row(title, *(_count(form[key]) for form in forms))
    table.add_row(
        "bytes of weights",
        _count(costs["weight_bytes_float32"]),
        _count(costs["weight_bytes_int8"]),
        _count(costs["weight_bytes"]),
    )
    spent = [costs["energy_microjoules"][form] for form in ("float32", "int8", "shift_add")]
    table.add_row("energy of arithmetic, µJ", *(f"{form['compute']:.3f}" for form in spent))
    table.add_row("energy of memory, µJ", *(f"{form['memory']:.3f}" for form in spent))
    console.print(table)
    sources = sorted(
        {
            row["source"]
            for rows in costs["unit_energies"].values()
            for row in rows
            if row.get("number") not in _UNUSED
        }
    )
    console.print(
        Text(
            "Counted, not measured. Each operation and each byte moved is charged with a published "
            "figure for 45 nm silicon; int8 is the same network with ordinary 8-bit "
            "multiplications. Most of what is saved against float32 any 8-bit network saves; "
            "beyond that, no multiplier is needed. Sources: " + "; ".join(sources) + "."
        ),
        width=min(console.width, 88),
    )


def next_steps(console: Console, artifact: Path, commands: Sequence[tuple[str, str]]) -> None:
    """Where the result is and what to type now."""
    console.print(Text(f"The compiled network is in {artifact}/. Try:"))
    for command, purpose in commands:
        console.print(Text(f"\n  # {purpose}\n  {command}"), soft_wrap=True)


def _table(*columns: str, header: bool = True) -> Table:
    """A plain table; a title that begins with > is aligned to the right."""
    table = Table(box=box.SIMPLE, show_header=header, pad_edge=False)
    for title in columns:
        right = title.startswith(">")
        table.add_column(title.lstrip(">"), justify="right" if right else "left")
    return table


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} %"


def _percent_error(one: Weight) -> str:
    return f"{100 * abs(one.after - one.before) / abs(one.before):.2f} %" if one.before else "0"
