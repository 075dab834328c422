"""The passes in the order in which they run: this list is the compiler.

``FLOAT_PASSES`` bring an imported module to the form the converter reads; ``integer_passes(plan)``
take it from there to the dialect. :func:`run` checks that each pass finds what it requires, that
what it ensures holds, and writes the module after each one where asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from relay_passes import properties
from relay_passes.align_residuals import AlignResiduals
from relay_passes.base import ModulePass
from relay_passes.canonicalize import Canonicalize
from relay_passes.channels_last import ChannelsLast
from relay_passes.fold_batch_norm import FoldBatchNorm
from relay_passes.lift_constants import LiftConstants
from relay_passes.place_requantize import PlaceRequantize
from relay_passes.rewrite_to_dialect import RewriteToDialect
from relay_passes.select_regions import SelectRegions
from relay_passes.verify_multiplier_free import VerifyMultiplierFree
from tvm_shiftadd._compat import ir
from tvm_shiftadd.convert.plan import Plan
from tvm_shiftadd.dialect.printer import script
from tvm_shiftadd.errors import VerificationError

#: What an importer promises.
IMPORTED = frozenset({"float_form"})

FLOAT_PASSES: tuple[ModulePass, ...] = (
    Canonicalize(),
    FoldBatchNorm(),
    ChannelsLast(),
    SelectRegions(),
)


def integer_passes(plan: Plan) -> tuple[ModulePass, ...]:
    """From a selected float module to a verified module of the dialect."""
    return (
        RewriteToDialect(plan),
        AlignResiduals(),
        PlaceRequantize(),
        VerifyMultiplierFree(),
    )


#: What a target's compiler gets: the same module with its constants as parameters.
FINAL_PASSES: tuple[ModulePass, ...] = (LiftConstants(),)


def run(
    mod: ir.IRModule,
    passes: Sequence[ModulePass],
    *,
    given: Iterable[str] = IMPORTED,
    dump: Path | None = None,
) -> ir.IRModule:
    """Apply passes in order.

    ``given`` names the properties that hold at the start. With ``dump``, the module after each
    pass is written to ``dump/NN-PassName.txt``, numbered on from the files already there.

    Raises VerificationError if a pass lacks a property it requires or breaks one it ensures.
    """
    held = set(given)
    for pass_ in passes:
        missing = [name for name in pass_.requires if name not in held]
        if missing:
            raise VerificationError(
                f"{pass_.name} requires {', '.join(missing)}, which no earlier pass ensures; "
                "mend the order in relay_passes/pipeline.py"
            )
        mod = pass_(mod)
        for name in pass_.ensures:
            properties.check(name, mod)
        held.update(pass_.ensures)
        if dump is not None:
            write_dump(dump, pass_.name, mod)
    return mod


def ensured(passes: Iterable[ModulePass], given: Iterable[str] = IMPORTED) -> frozenset[str]:
    """The properties that hold after passes."""
    return frozenset(given).union(*(pass_.ensures for pass_ in passes))


def write_dump(directory: Path, phase: str, mod: ir.IRModule) -> None:
    """Write a module as text under the next free number."""
    directory.mkdir(parents=True, exist_ok=True)
    number = len(list(directory.glob("[0-9][0-9]-*.txt")))
    (directory / f"{number:02}-{phase}.txt").write_text(script(mod), encoding="utf-8")
