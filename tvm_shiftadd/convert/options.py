"""What a user can choose about a conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tvm_shiftadd.convert.allocate_budget import Budget
from tvm_shiftadd.convert.terms import TermLimits
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.codes import MAX_TERMS

#: The budget of ``terms="auto"`` where none is given.
DEFAULT_BUDGET = "terms=1.3"


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    terms: K, the most terms a weight may have, 1 to 3. bias_correction: fit the biases to the
    float network. compensation: round weights so that the errors of a channel cancel. equalize:
    scale the channels of a tensor so that they fill the range of its type first. fold: scale output
    channels to where their weights round best. finer: let a factor of two shifted copies follow
    a layer whose weights round much better for it. unsigned: store tensors that are never
    negative as uint8, which has one bit more for them. limit: calibration images used, None for
    all. correction_images: images held in memory to fit layers on, at most; memory: bytes these may
    take while they run through the network. allocation: the term limits of single layers by their
    names; every other layer has ``TermLimits(terms)``. budget: give out terms within it, instead of
    ``terms`` everywhere; frontier: also measure what other budgets would give.

    Raises InputError for values that make no sense.
    """

    terms: int = 2
    bias_correction: bool = True
    compensation: bool = True
    equalize: bool = True
    fold: bool = True
    finer: bool = True
    unsigned: bool = True
    limit: int | None = None
    correction_images: int = 512
    memory: int = 2 << 30
    allocation: Mapping[str, TermLimits] = field(default_factory=dict)
    budget: Budget | None = None
    frontier: bool = False

    def limits_of(self, layer: str) -> TermLimits:
        """The term limits of the layer of this name."""
        return self.allocation.get(layer, TermLimits(self.terms))

    def __post_init__(self) -> None:
        """Check the values."""
        if not 1 <= self.terms <= MAX_TERMS:
            raise InputError(f"terms must be 1 to {MAX_TERMS}, not {self.terms}; choose one")
        for name in ("limit", "correction_images", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}; choose a larger one")
        if self.budget is not None and self.allocation:
            raise InputError("the terms come from a budget or from an allocation; give one of them")
        if self.frontier and self.budget is None:
            raise InputError("a frontier is measured around a budget; give one (terms auto)")

    @staticmethod
    def choose(
        terms: int | str = 2,
        *,
        budget: Budget | str | None = None,
        max_drop: float | None = None,
        grain: str | None = None,
        frontier: bool = False,
    ) -> ConvertOptions:
        """The options behind ``terms``: 1, 2, 3, or "auto" with what the others say.

        budget: ``UNIT=AMOUNT`` or a :class:`Budget`; :data:`DEFAULT_BUDGET` where neither it nor
        ``max_drop`` is given. Raises InputError for what does not go together.
        """
        if terms != "auto":
            given = {"budget": budget, "max-drop": max_drop, "grain": grain}
            extra = [name for name, value in given.items() if value is not None]
            extra += ["frontier"] if frontier else []
            if extra:
                raise InputError(f"--{extra[0]} is for terms that are chosen; give --terms auto")
            if not isinstance(terms, int):
                raise InputError(f"terms are 1, 2, 3 or auto, not '{terms}'; choose one")
            return ConvertOptions(terms=terms)
        if budget is not None and max_drop is not None:
            raise InputError("a budget and a largest drop cannot both be kept to; give one of them")
        if isinstance(budget, Budget):
            if grain is not None:
                budget = replace(budget, grain=grain)  # type: ignore[arg-type]
        elif max_drop is not None:
            budget = Budget(max_drop=max_drop, grain=grain)  # type: ignore[arg-type]
        else:
            budget = Budget.parse(budget or DEFAULT_BUDGET, grain)
        return ConvertOptions(terms=MAX_TERMS, budget=budget, frontier=frontier)
