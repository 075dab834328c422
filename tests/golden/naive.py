"""The integer specification once more, as plain loops over Python integers.

Nothing of tvm_shiftadd is used here, so that what is computed here can check it. Arrays hold
Python integers (dtype object) or are converted at the end; speed does not matter.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from functools import cache
from itertools import pairwise, product

import numpy as np


def decode(code: int) -> int:
    magnitude = code & 7
    value = 0 if magnitude == 0 else 2 ** (magnitude - 1)
    return -value if code & 8 else value


def unpack(packed: np.ndarray, reduction: int) -> np.ndarray:
    planes, _, outputs = packed.shape
    codes = np.zeros((planes, reduction, outputs), dtype=np.uint8)
    for k, r, o in product(range(planes), range(reduction), range(outputs)):
        byte = int(packed[k, r // 2, o])
        codes[k, r, o] = byte // 16 if r % 2 else byte % 16
    return codes


def weight(codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    flat = np.zeros(codes.shape[1:], dtype=np.int64)
    for r, o in product(range(codes.shape[1]), range(codes.shape[2])):
        flat[r, o] = sum(decode(int(code)) for code in codes[:, r, o])
    return flat.reshape(shape)


LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def quantize(x: np.ndarray, exponent: int, dtype: str = "int8") -> np.ndarray:
    low, high = LIMITS[dtype]

    def one(value: float) -> int:
        if math.isnan(value):
            return 0
        if math.isinf(value):
            return high if value > 0 else low
        exact = Fraction(value) * Fraction(2) ** exponent
        return max(low, min(high, round(exact)))  # round() of a Fraction: half to even

    return np.array([one(float(v)) for v in x.reshape(-1)], dtype=dtype).reshape(x.shape)


def dequantize(x: np.ndarray, exponent: list[int]) -> np.ndarray:
    out = np.zeros(x.shape, dtype=np.float32)
    for where in np.ndindex(x.shape):
        e = exponent[where[-1]] if len(exponent) > 1 else exponent[0]
        rounded = struct.unpack("<f", struct.pack("<f", int(x[where])))[0]
        out[where] = float(Fraction(rounded) / Fraction(2) ** e)
    return out


def conv2d(x, weight, bias, *, strides, padding, dilation, groups):
    n, height, width, _ = x.shape
    kernel_h, kernel_w, per_group, outputs = weight.shape
    top, left, bottom, right = padding
    rows = (height + top + bottom - dilation[0] * (kernel_h - 1) - 1) // strides[0] + 1
    columns = (width + left + right - dilation[1] * (kernel_w - 1) - 1) // strides[1] + 1
    out = np.zeros((n, rows, columns, outputs), dtype=np.int64)
    for y, col, ky, kx, i, o in product(
        *map(range, (rows, columns, kernel_h, kernel_w, per_group, outputs))
    ):
        row_in = y * strides[0] - top + ky * dilation[0]
        col_in = col * strides[1] - left + kx * dilation[1]
        if 0 <= row_in < height and 0 <= col_in < width:
            channel = o // (outputs // groups) * per_group + i
            for image in range(n):
                value = int(x[image, row_in, col_in, channel])
                out[image, y, col, o] += value * int(weight[ky, kx, i, o])
    return out + np.asarray(bias, dtype=np.int64)


def conv2d_transpose(x, weight, bias, *, strides, padding, output_padding, dilation):
    n, height, width, inputs = x.shape
    kernel_h, kernel_w, _, outputs = weight.shape
    top, left, bottom, right = padding
    rows = (height - 1) * strides[0] - top - bottom + dilation[0] * (kernel_h - 1) + 1
    columns = (width - 1) * strides[1] - left - right + dilation[1] * (kernel_w - 1) + 1
    rows, columns = rows + output_padding[0], columns + output_padding[1]
    out = np.zeros((n, rows, columns, outputs), dtype=np.int64)
    for image, y, col, ky, kx in product(*map(range, (n, height, width, kernel_h, kernel_w))):
        row_out = y * strides[0] - top + ky * dilation[0]
        col_out = col * strides[1] - left + kx * dilation[1]
        if 0 <= row_out < rows and 0 <= col_out < columns:
            for i, o in product(range(inputs), range(outputs)):
                value = int(x[image, y, col, i]) * int(weight[ky, kx, i, o])
                out[image, row_out, col_out, o] += value
    return out + np.asarray(bias, dtype=np.int64)


def dense(x, weight, bias):
    out = np.zeros((x.shape[0], weight.shape[1]), dtype=np.int64)
    for image, i, o in product(range(x.shape[0]), range(weight.shape[0]), range(weight.shape[1])):
        out[image, o] += int(x[image, i]) * int(weight[i, o])
    return out + np.asarray(bias, dtype=np.int64)


def adder_conv2d(x, weight, bias, *, strides, padding):
    """Bias minus the distances; padding is a pixel of value 0 like any other."""
    top, left, bottom, right = padding
    n, height, width, inputs = x.shape
    kernel_h, kernel_w, _, outputs = weight.shape
    rows = (height + top + bottom - kernel_h) // strides[0] + 1
    columns = (width + left + right - kernel_w) // strides[1] + 1
    out = np.zeros((n, rows, columns, outputs), dtype=np.int64) + np.asarray(bias, dtype=np.int64)
    for image, y, col, o in np.ndindex(out.shape):
        for ky, kx, i in product(range(kernel_h), range(kernel_w), range(inputs)):
            row, column = y * strides[0] - top + ky, col * strides[1] - left + kx
            inside = 0 <= row < height and 0 <= column < width
            pixel = int(x[image, row, column, i]) if inside else 0
            out[image, y, col, o] -= abs(pixel - int(weight[ky, kx, i, o]))
    return out


def adder_dense(x, weight, bias):
    out = np.zeros((x.shape[0], weight.shape[1]), dtype=np.int64)
    out += np.asarray(bias, dtype=np.int64)
    for image, i, o in product(range(x.shape[0]), range(weight.shape[0]), range(weight.shape[1])):
        out[image, o] -= abs(int(x[image, i]) - int(weight[i, o]))
    return out


def fold(weight):
    """Weights of any size to int8, and what each channel's bias gains by it."""
    clipped = np.zeros(weight.shape, dtype=np.int8)
    offset = np.zeros(weight.shape[-1], dtype=np.int64)
    for where in np.ndindex(weight.shape):
        value = int(weight[where])
        clipped[where] = max(-128, min(127, value))
        # Any int8 input shows the constant by which the distances differ.
        offset[where[-1]] -= abs(5 - value) - abs(5 - int(clipped[where]))
    return clipped, offset


def scale(x, codes):
    out = np.zeros(x.shape, dtype=np.int64)
    for where in np.ndindex(x.shape):
        for own in codes:
            code = int(own[where[-1]] if len(own) > 1 else own[0])
            if code & 7:
                copy = int(x[where]) * 2 ** ((code & 7) - 1)
                out[where] += -copy if code & 8 else copy
    return out


def requantize(acc, shift, lo, hi, dtype="int8"):
    out = np.zeros(acc.shape, dtype=dtype)
    for where in np.ndindex(acc.shape):
        n = int(shift[where[-1]] if len(shift) > 1 else shift[0])
        exact = Fraction(int(acc[where])) / Fraction(2) ** n
        out[where] = max(lo, min(hi, math.floor(exact + Fraction(1, 2))))
    return out


def add(lhs, rhs, lhs_shift, rhs_shift):
    out = np.zeros(lhs.shape, dtype=np.int64)
    for where in np.ndindex(lhs.shape):
        left = lhs_shift[where[-1]] if len(lhs_shift) > 1 else lhs_shift[0]
        right = rhs_shift[where[-1]] if len(rhs_shift) > 1 else rhs_shift[0]
        out[where] = int(lhs[where]) * 2 ** int(left) + int(rhs[where]) * 2 ** int(right)
    return out


def pool_windows(size, *, pool_size, strides, padding, dilation, ceil_mode):
    """For each output position: its taps as (row, column) of the input, padding included."""
    starts = []
    for axis in (0, 1):
        before, after = padding[axis], padding[axis + 2]
        reach = dilation[axis] * (pool_size[axis] - 1) + 1
        axis_starts, start = [], -before
        while start + reach <= size[axis] + after:
            axis_starts.append(start)
            start += strides[axis]
        # One more window where the last one does not end exactly at the padded end.
        overhangs = axis_starts[-1] + reach < size[axis] + after
        if ceil_mode and overhangs and start < size[axis]:
            axis_starts.append(start)
        starts.append(axis_starts)
    return [
        [
            [
                (y + ky * dilation[0], x + kx * dilation[1])
                for ky in range(pool_size[0])
                for kx in range(pool_size[1])
            ]
            for x in starts[1]
        ]
        for y in starts[0]
    ]


def max_pool2d(x, **window):
    windows = pool_windows(x.shape[1:3], **window)
    low = LIMITS[x.dtype.name][0]
    out = np.full((x.shape[0], len(windows), len(windows[0]), x.shape[3]), low, dtype=x.dtype)
    for n, y, col, c in np.ndindex(out.shape):
        for row, column in windows[y][col]:
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                out[n, y, col, c] = max(out[n, y, col, c], x[n, row, column, c])
    return out


def avg_pool_sums(x, *, count_include_pad, padding, **window):
    """Window sums ``[N, OH, OW, C]`` and what each is divided by ``[OH, OW]``."""
    windows = pool_windows(x.shape[1:3], padding=padding, **window)
    height, width = x.shape[1:3]
    top, left, bottom, right = padding
    sums = np.zeros((x.shape[0], len(windows), len(windows[0]), x.shape[3]), dtype=np.int64)
    counts = np.zeros(sums.shape[1:3], dtype=np.int64)
    for y, col in np.ndindex(counts.shape):
        for row, column in windows[y][col]:
            if 0 <= row < height and 0 <= column < width:
                sums[:, y, col] += x[:, row, column]
                counts[y, col] += 1
            elif count_include_pad and -top <= row < height + bottom:
                counts[y, col] += -left <= column < width + right
    return sums, np.maximum(counts, 1)


def reciprocals(counts) -> tuple[int, dict[int, list[tuple[int, int]]]]:
    """Shift and signed shifts of each count, by trying every sum of 1, 2, ... signed powers."""
    found = {int(count): _reciprocal(int(count)) for count in sorted(set(counts))}
    shift = max(own for own, _ in found.values())
    return shift, {
        count: [(sign, left + shift - own) for sign, left in terms]
        for count, (own, terms) in found.items()
    }


@cache
def _reciprocal(count: int) -> tuple[int, list[tuple[int, int]]]:
    for length in range(1, 9):
        for shift in range(23):
            fits = []
            for terms in _signed_sums(length, shift):
                value = sum(sign * 2**left for sign, left in terms)
                error = abs(Fraction(value * count, 2**shift) - 1)
                if error <= Fraction(1, 1024):
                    fits.append((error, terms))
            if fits:
                return shift, min(fits)[1]
    raise AssertionError(count)


def _signed_sums(length: int, top: int, first: bool = True):
    """All descending lists of ``length`` signed powers up to 2^top, no two neighbours."""
    if length == 0:
        yield []
        return
    for left in range(top, -1, -1):
        for sign in (1,) if first else (1, -1):
            for rest in _signed_sums(length - 1, left - 2, first=False):
                yield [(sign, left), *rest]


def avg_pool2d(x, *, count_include_pad, **window):
    """int32 result and the shift by which its scale is finer than the input's."""
    sums, counts = avg_pool_sums(x, count_include_pad=count_include_pad, **window)
    shift, terms = reciprocals(counts.reshape(-1).tolist())
    out = np.zeros(sums.shape, dtype=np.int64)
    for y, col in np.ndindex(counts.shape):
        factor = sum(sign * 2**left for sign, left in terms[int(counts[y, col])])
        out[:, y, col] = sums[:, y, col] * factor
    return out, shift


def upsample2d(x, scale):
    n, height, width, channels = x.shape
    out = np.zeros((n, height * scale[0], width * scale[1], channels), dtype=x.dtype)
    for where in np.ndindex(out.shape):
        out[where] = x[where[0], where[1] // scale[0], where[2] // scale[1], where[3]]
    return out


def pad(x, pad_width):
    before, after = pad_width[0::2], pad_width[1::2]
    sizes = zip(x.shape, before, after, strict=True)
    out = np.zeros([size + low + high for size, low, high in sizes], dtype=x.dtype)
    for where in np.ndindex(x.shape):
        out[tuple(index + low for index, low in zip(where, before, strict=True))] = x[where]
    return out


def canonical(value: int, terms: int) -> list[int] | None:
    """The canonical codes of ``value``, or None where ``terms`` terms cannot make it."""
    for length in range(terms + 1):
        fits = []
        for exponents in product(range(6, -1, -1), repeat=length):
            if any(later >= earlier for earlier, later in pairwise(exponents)):
                continue
            for signs in product((1, -1), repeat=length):
                if sum(s * 2**e for s, e in zip(signs, exponents, strict=True)) == value:
                    fits.append((exponents, signs))
        if fits:
            exponents, signs = min(fits)
            codes = [e + 1 + (8 if s < 0 else 0) for e, s in zip(exponents, signs, strict=True)]
            return codes + [0] * (terms - length)
    return None
