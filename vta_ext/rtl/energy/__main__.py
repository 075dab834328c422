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
    parser.add_argument("--block", type=int, choices=(1, 2, 4, 8, 16), default=16, help="elements")
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
    from vta_ext.rtl.energy.measure import table

    lines = table(given.liberty, given.weights, given.lanes, given.cycles, given.reuse, given.block)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
