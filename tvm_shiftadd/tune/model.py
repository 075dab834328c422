"""Which candidates are worth a trial: XGBoost's trees, learnt from those that were tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Trials from which on anything is learnt.
ENOUGH = 12
#: What a candidate that failed counts as: so many times the time of the rule's choice.
FAILED = 4.0
_ROUNDS = 80
_PARAMETERS = {
    "objective": "reg:squarederror",
    "eta": 0.15,
    "max_depth": 6,
    "min_child_weight": 1,
    "nthread": 1,
    "verbosity": 0,
    "seed": 0,
}


def available() -> bool:
    """Whether xgboost is installed; without it candidates are drawn at random."""
    return importlib.util.find_spec("xgboost") is not None


class CostModel:
    """Times relative to the rule's choice, by the features of workload and parameters."""

    def __init__(self) -> None:
        self._rows: list[Sequence[float]] = []
        self._times: list[float] = []
        self._trees: object = None

    def add(self, features: Sequence[float], relative: float | None) -> None:
        """Learn from a trial: its time over that of the rule's choice, None for a failure."""
        self._rows.append(features)
        self._times.append(float(np.log(relative if relative else FAILED)))
        self._trees = None

    @property
    def ready(self) -> bool:
        """Whether enough was tried to tell good from bad."""
        return available() and len(self._rows) >= ENOUGH

    def predict(self, rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
        """The logarithms of the relative times that are to be expected."""
        import xgboost

        if self._trees is None:
            data = xgboost.DMatrix(np.array(self._rows, np.float32), label=np.array(self._times))
            self._trees = xgboost.train(_PARAMETERS, data, num_boost_round=_ROUNDS)
        return np.asarray(self._trees.predict(xgboost.DMatrix(np.array(rows, np.float32))))  # type: ignore[attr-defined]
