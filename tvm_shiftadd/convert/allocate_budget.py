"""What terms may cost, and at which grain they are given out: the user's side of an allocation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tvm_shiftadd.errors import InputError

Unit = Literal["terms", "bytes", "energy", "cycles"]
Grain = Literal["layer", "tile", "weight"]

UNITS: tuple[Unit, ...] = get_args(Unit)
GRAINS: tuple[Grain, ...] = get_args(Grain)

#: The grains that can move a cost; the finest, which is the default, last.
USEFUL_GRAINS: dict[Unit, tuple[Grain, ...]] = {
    "terms": ("layer", "tile", "weight"),
    "bytes": ("layer",),
    "energy": ("layer", "tile", "weight"),
    "cycles": ("layer", "tile"),
}

_WHY_NOT: dict[Unit, str] = {
    "terms": "",
    "bytes": "a layer stores K planes of codes, whatever its weights use of them",
    "energy": "",
    "cycles": "a tile takes a second pass if one of its weights has a second term",
}

_FORMS = "terms=1.3, bytes=200000, energy=4.5 (microjoules) or cycles=900000"


@dataclass(frozen=True)
class Budget:
    """How many terms the weights of a network may have in all.

    unit, amount: the most they may cost; amount is None where only ``max_drop`` is given.

    - terms: mean number of non-zero terms a weight, over all weights
    - bytes: packed weight codes of all layers, K planes of 4 bits a weight in each
    - energy: microjoules of one inference, for the shift and the addition of each non-zero term
      at each output position, at 45 nm
    - cycles: micro-ops of the accelerator in one inference: for each tile of 16 inputs by 16
      outputs at one kernel position one at each output position, for each pass over the tile

    max_drop: percentage points of top-1 accuracy that may be lost. There are no labels, so it is
    held by the share of held-out calibration images on which the converted network names another
    class than the float network, one more image than seen counted: on these images accuracy
    cannot drop by more. Images the network was trained on are easier than others.
    grain: what gets its own number of terms; None for the finest that can move the cost.

    Raises InputError for values that make no sense.
    """

    unit: Unit = "terms"
    amount: float | None = None
    max_drop: float | None = None
    grain: Grain | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.unit not in UNITS:
            raise InputError(f"a budget's unit is one of {', '.join(UNITS)}, not '{self.unit}'")
        if (self.amount is None) == (self.max_drop is None):
            raise InputError(
                "terms can be allocated to a budget or to a largest drop, one of the two; give "
                "--budget or --max-drop"
            )
        for name, value in (("budget", self.amount), ("largest drop", self.max_drop)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"a {name} must be a positive number, not {value:g}; change it")
        if self.max_drop is not None and self.max_drop >= 100:
            raise InputError(
                f"a largest drop is in percentage points, below 100, not {self.max_drop:g}"
            )
        if self.grain is None:
            return
        if self.grain not in GRAINS:
            raise InputError(f"a grain is one of {', '.join(GRAINS)}, not '{self.grain}'")
        useful = USEFUL_GRAINS[self.unit]
        if self.grain not in useful:
            raise InputError(
                f"{self.unit} cannot be allocated by {self.grain}: {_WHY_NOT[self.unit]}; choose "
                f"--grain {' or '.join(useful)}"
            )

    @property
    def chosen_grain(self) -> Grain:
        """The grain given, or the unit's finest."""
        return self.grain or USEFUL_GRAINS[self.unit][-1]

    @staticmethod
    def parse(text: str, grain: str | None = None) -> Budget:
        """A budget from ``UNIT=AMOUNT``. Raises InputError."""
        unit, equals, amount = text.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if not equals or math.isnan(number):
            raise InputError(f"a budget is written UNIT=AMOUNT, not '{text}'; give {_FORMS}")
        if unit not in UNITS:
            raise InputError(f"a budget's unit '{unit}' is not known; give {_FORMS}")
        return Budget(unit, number, None, grain)  # type: ignore[arg-type]

    def describe(self) -> str:
        """The budget in words."""
        if self.max_drop is not None:
            return f"at most {self.max_drop:g} points of drop"
        return f"{self.unit} <= {self.amount:g}"
