"""Rounding that makes up for its own errors: column by column, then coordinate descent.

The error of a channel is ``(v - w)' H (v - w)``, H the covariance of its inputs. Rounding one
weight moves the others that are not rounded yet to where that error is least (GPTQ, Frantar et
al. 2023, without its fixed grid); afterwards single weights are moved while that still helps.
Both work on scaled weights, where a channel's representable values are integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.convert.moments import DAMPING, Moments, Sums, total
from tvm_shiftadd.convert.terms import (
    Float64,
    Int32,
    Limits,
    Search,
    TermLimits,
    cheapest,
    covering_exponent,
    nearest,
    scale,
)

#: Columns whose updates are gathered before the rest of the matrix is touched.
BLOCK = 64

#: Up to so many weights a channel, every candidate is improved by coordinate descent before the
#: best is chosen; beyond, only the best.
SHORT = 32

#: Damping tried, in parts of the mean variance of the inputs.
DAMPINGS = (0.01, 0.03, DAMPING, 0.3, 1.0, 3.0, 10.0)

#: Parts of the images that are held out in turn.
HELD = 2

#: Weights a channel beyond which damping is chosen on a part of them: its time is that cubed.
LONG = 1536

#: Passes of coordinate descent, at most.
SWEEPS = 6


def compensated_search(moments: Moments, limits: TermLimits) -> Search:
    """Candidates rounded with compensation; the error is that of the layer's output."""
    hessian, ideal = moments.hessian, moments.ideal
    groups, reduction, made = ideal.shape
    most = limits.grouped(groups)

    def search(exponent: Float64) -> tuple[Float64, Float64]:
        steps = exponent.shape[0]
        scaled = scale(ideal, exponent[:, :, None, :])
        rows = scaled.transpose(1, 2, 0, 3).reshape(groups, reduction, steps * made)
        allowed = None if most is None else np.tile(most, (1, 1, steps))
        values = _compensate(rows, hessian, limits.terms, allowed)
        if reduction <= SHORT:
            _descend(values, rows, hessian, _Rule(limits.terms, allowed, np.zeros(())))
        error = _error(values - rows, hessian).reshape(groups, steps, made).transpose(1, 0, 2)
        values = values.reshape(groups, reduction, steps, made).transpose(2, 0, 1, 3)
        return values, scale(error, -2 * exponent)

    return search


def choose_damping(parts: Sequence[Sums], weight: Float64, limits: TermLimits) -> float:
    """The damping with which weights rounded for some parts of the images do best on the others.

    parts: sums of each part; weight: float64 ``[G, n, O]``. Few images that resemble each other
    need more of it than their number of windows tells.
    """
    if len(parts) < 2:
        return DAMPING + weight.shape[1] / parts[0].count
    if weight.shape[1] > LONG:
        # What one part of the images is to so many fewer weights, all but one are to all.
        rows = slice(0, weight.shape[1] // max(len(parts) - 1, 1))
        parts = [part.rows(rows, weight) for part in parts[:HELD]]
        weight, limits = weight[:, rows], limits.rows(rows)
    losses: dict[int, float] = {}

    def loss(place: int) -> float:
        if place not in losses:
            losses[place] = sum(
                _held_out(parts, held, weight, limits, DAMPINGS[place]) for held in range(HELD)
            )
        return losses[place]

    best = DAMPINGS.index(DAMPING)
    for step in (1, -1):
        while 0 <= best + step < len(DAMPINGS) and loss(best + step) < loss(best):
            best += step
    return DAMPINGS[best]


def _held_out(
    parts: Sequence[Sums], held: int, weight: Float64, limits: TermLimits, damping: float
) -> float:
    """The loss on part ``held`` of weights rounded for all others."""
    fitted = total([part for place, part in enumerate(parts) if place != held])
    moments = fitted.moments(weight, damping)
    groups, _, made = weight.shape
    # One scale is enough to compare: that which just covers the largest weight and half of it.
    wide = Limits(0, np.zeros(groups * made))
    finest = covering_exponent(moments.ideal, limits.terms, wide)
    exponent = finest[None].astype(np.float64) + 1
    values, _ = compensated_search(moments, limits)(exponent)
    return parts[held].loss(scale(values, -exponent[:, :, None, :])[0], fitted)


def descend(
    values: Int32,
    exponent: Float64 | Int32,
    moments: Moments,
    limits: TermLimits,
    price: float | Float64 = 0.0,
) -> Int32:
    """Coordinate descent from ``values`` ``[R, G * O]`` at the given exponents ``[G * O]``.

    price: of one term, for all channels or for each, in units of the squared error of one output
    (integer input times real weight).
    """
    hessian, ideal = moments.hessian, moments.ideal
    groups, reduction, made = ideal.shape
    steps = exponent.reshape(groups, 1, made)
    prices = np.broadcast_to(price, exponent.shape).reshape(groups, made)
    rule = _Rule(limits.terms, limits.grouped(groups), scale(prices, 2 * steps[:, 0]))
    current = values.reshape(reduction, groups, made).transpose(1, 0, 2).astype(np.float64)
    _descend(current, scale(ideal, steps), hessian, rule)
    return current.transpose(1, 0, 2).reshape(reduction, groups * made).astype(np.int32)


def _descend(current: Float64, target: Float64, hessian: Float64, rule: _Rule) -> None:
    """Move single weights of ``current`` ``[G, n, P]`` while that brings them nearer ``target``."""
    reduction = current.shape[1]
    gradient = hessian @ (current - target)
    for _ in range(SWEEPS):
        changed = False
        for start in range(0, reduction, BLOCK):
            part = slice(start, min(start + BLOCK, reduction))
            square = hessian[:, part, part]
            moved = _descend_block(current[:, part], gradient[:, part], square, rule.rows(part))
            if moved is not None:
                changed = True
                gradient += hessian[:, :, part] @ moved
        if not changed:
            break


@dataclass(frozen=True)
class _Rule:
    """What descent may round to: K, the most terms ``[G, n, O]``, the price of one ``[G, O]``."""

    terms: int
    most: NDArray[np.uint8] | None
    price: Float64

    def rows(self, part: slice) -> _Rule:
        return self if self.most is None else replace(self, most=self.most[:, part])

    def best(self, row: int, wanted: Float64, curvature: Float64) -> Float64:
        """The value for weight ``row`` whose best real value is ``wanted`` ``[G, O]``."""
        most = None if self.most is None else self.most[:, row]
        if not self.price.any():
            return nearest(wanted, self.terms, most)
        return cheapest(wanted, self.terms, most, self.price / curvature[:, None])


def _descend_block(
    current: Float64, gradient: Float64, hessian: Float64, rule: _Rule
) -> Float64 | None:
    """Improve one block of rows of ``current`` in place; what was added, None for nothing."""
    diagonal = np.einsum("gnn->gn", hessian)
    before = current.copy()
    local = gradient.copy()
    for row in range(current.shape[1]):
        wanted = current[:, row] - local[:, row] / diagonal[:, row, None]
        best = rule.best(row, wanted, diagonal[:, row])
        step = best - current[:, row]
        if step.any():
            current[:, row] = best
            local += hessian[:, :, row, None] * step[:, None, :]
    moved = current - before
    return moved if moved.any() else None


def _compensate(
    scaled: Float64, hessian: Float64, terms: int, most: NDArray[np.uint8] | None
) -> Float64:
    """Representable values for ``scaled`` ``[G, n, P]``, rounded in order of importance."""
    order = np.argsort(-np.einsum("gnn->gn", hessian), axis=1, kind="stable")
    sorted_rows = np.take_along_axis(hessian, order[:, :, None], axis=1)
    inverse = np.linalg.inv(np.take_along_axis(sorted_rows, order[:, None, :], axis=2))
    spread = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    rest = np.take_along_axis(scaled, order[:, :, None], axis=1)
    allowed = None if most is None else np.take_along_axis(most, order[:, :, None], axis=1)
    reduction = rest.shape[1]
    values = np.empty_like(rest)
    for start in range(0, reduction, BLOCK):
        stop = min(start + BLOCK, reduction)
        errors = np.empty_like(rest[:, start:stop])
        for row in range(start, stop):
            limit = None if allowed is None else allowed[:, row]
            values[:, row] = nearest(rest[:, row], terms, limit)
            error = (rest[:, row] - values[:, row]) / spread[:, row, row, None]
            errors[:, row - start] = error
            tail = spread[:, row, row + 1 : stop]
            rest[:, row + 1 : stop] -= tail[:, :, None] * error[:, None, :]
        rest[:, stop:] -= spread[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    result = np.empty_like(values)
    np.put_along_axis(result, order[:, :, None], values, axis=1)
    return result


def _error(difference: Float64, hessian: Float64) -> NDArray[np.float64]:
    """The quadratic form of every column, ``[G, P]``."""
    return np.einsum("gnp,gnp->gp", difference, hessian @ difference)
