"""Area and energy of rows of the matrix unit in the cells of a library.

python -m vta_ext.rtl.energy --liberty cells.lib [--weights resnet20.shiftadd/weights.safetensors]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vta_ext.rtl import tools


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table: each kind of row beside the multiplier's."""
    parser = argparse.ArgumentParser(description="Area and energy of rows in cells of a library.")
    parser.add_argument("--liberty", type=Path, required=True, help="the cells")
    parser.add_argument("--weights", type=Path, help="weights.safetensors of a CPU artifact")
    parser.add_argument("--cycles", type=_positive, default=64, help="that are simulated")
    parser.add_argument(
        "--lanes", type=_positive, default=256, help="copies of a row, each its own"
    )
    parser.add_argument("--reuse", type=_positive, default=16, help="cycles that weights stay")
    given = parser.parse_args(arguments)
    with tools.explained(parser):
        tools.require("amaranth")
        _print(given)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def _print(given: argparse.Namespace) -> None:
    from vta_ext.rtl.energy import operands
    from vta_ext.rtl.energy.liberty import load
    from vta_ext.rtl.energy.measure import LOG_BLOCK, row_energies
    from vta_ext.rtl.rows import VARIANTS

    library, block = load(given.liberty), 1 << LOG_BLOCK
    blocks = None if given.weights is None else operands.weights_of(given.weights, block)
    fed = operands.draw(given.lanes, given.cycles, block, given.reuse, blocks)
    print(f"{library.name}, {library.volts:g} V; femtojoule a product, in a row of {block}")
    print(
        "| row | area | of multiply | clock | registers and gates | total | of multiply |", end=""
    )
    print(" with glitches | of multiply |")
    print("|" + "---|" * 9)
    first = None
    for modes in VARIANTS:
        for found in row_energies(modes, given.liberty, library, fed):
            first = first or found
            settled, whole = found.settled, found.whole
            name = found.mode if len(modes) == 1 else f"{' and '.join(modes)}: {found.mode}"
            print(
                f"| {name} | {found.area:,.0f} | {found.area / first.area:.2f} "
                f"| {settled.clock * 1e15:.0f} | {(settled.total - settled.clock) * 1e15:.0f} "
                f"| {settled.total * 1e15:.0f} | {settled.total / first.settled.total:.2f} "
                f"| {(whole.total - whole.clock) * 1e15:.0f} "
                f"| {whole.total * 1e15:.0f} | {whole.total / first.whole.total:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
