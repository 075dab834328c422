"""What a conversion did to each layer, as plain data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.allocate_report import AllocationReport

#: Layers whose output is noisier than this have lost most of what they compute.
NOISY_DB = 10.0


@dataclass(frozen=True)
class LayerReport:
    """One weight layer.

    terms: K, the most terms a weight may have, 0 for an adder layer, which has none;
    terms_per_weight: non-zero terms, mean over all weights. weight_snr_db, output_snr_db: signal to
    noise of the weights, and of the layer's output (before clipping) on calibration data, both
    against float, None where the error or the signal is zero; compensation gives up some of the
    first for the second. input_snr_db, rounding_snr_db, storage_snr_db: the same for each step
    alone: the errors that came with the inputs, what rounding the weights changed (and made up
    for), and storing the result in 8 bits; None where there is no such error, the last also where
    something is added before the result is stored. input_exponent, output_exponent: a of the
    scales 2^-a, the output's None where the host or the caller reads the accumulator. saturation:
    fraction of the stored output values at a limit of their type, of uint8 the upper one, 0 to 1.
    exact: the weights were sums of powers of two already, up to a factor a channel, and are kept.
    copies: shifted copies of the accumulator that make a channel's factor, at most; 0 for none.
    """

    name: str
    op: str
    terms: int
    weights: int
    terms_per_weight: float
    weight_snr_db: float | None
    output_snr_db: float | None
    input_exponent: int
    output_exponent: int | None
    saturation: float
    exact: bool = False
    copies: int = 0
    input_snr_db: float | None = None
    rounding_snr_db: float | None = None
    storage_snr_db: float | None = None

    @property
    def cause(self) -> str:
        """The step that did most of the harm: inputs, weights or storage; empty where none did."""
        steps = {
            "inputs": self.input_snr_db,
            "weights": self.rounding_snr_db,
            "storage": self.storage_snr_db,
        }
        known = {step: snr for step, snr in steps.items() if snr is not None}
        return min(known, key=known.__getitem__, default="")

    @property
    def weight_error(self) -> float:
        """Root mean square error of the weights relative to the weights, 0 where none is known."""
        return 0.0 if self.weight_snr_db is None else 10 ** (-self.weight_snr_db / 20)


@dataclass(frozen=True)
class ConversionReport:
    """All layers, in order. calibration_images: for the scales; correction_images: for the bias.

    allocation: how the terms were given out, None where every layer had the same.
    """

    layers: tuple[LayerReport, ...]
    calibration_images: int
    correction_images: int
    allocation: AllocationReport | None = None

    def worst(self, count: int = 3) -> tuple[LayerReport, ...]:
        """The layers of the noisiest outputs, the worst first."""
        known = [layer for layer in self.layers if layer.output_snr_db is not None]
        return tuple(sorted(known, key=lambda layer: layer.output_snr_db or 0.0)[:count])

    @property
    def noisy(self) -> tuple[LayerReport, ...]:
        """The layers below :data:`NOISY_DB`, the worst first."""
        worst = self.worst(len(self.layers))
        return tuple(layer for layer in worst if (layer.output_snr_db or 0.0) < NOISY_DB)

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def terms_per_weight(self) -> float:
        """Non-zero terms, mean over the weights of all layers but adder layers."""
        made = [layer for layer in self.layers if layer.terms]
        total = sum(layer.terms_per_weight * layer.weights for layer in made)
        return total / max(sum(layer.weights for layer in made), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; no NaN and no infinity among them."""
        plain = dataclasses.asdict(self)
        plain["layers"] = [
            {**fields, "cause": layer.cause, "weight_error": layer.weight_error}
            for fields, layer in zip(plain["layers"], self.layers, strict=True)
        ]
        plain["worst"] = [layer.name for layer in self.worst()]
        plain["noisy"] = [layer.name for layer in self.noisy]
        plain["weights"] = self.weights
        plain["terms_per_weight"] = self.terms_per_weight
        return plain


def snr_db(signal: NDArray[Any], noise: NDArray[Any]) -> float | None:
    """Ratio of the energies of ``signal`` and ``noise`` in decibels; None where either is zero."""
    top = float(np.square(signal, dtype=np.float64).sum())
    bottom = float(np.square(noise, dtype=np.float64).sum())
    return 10 * math.log10(top / bottom) if top > 0 and bottom > 0 else None
