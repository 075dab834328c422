"""Write the golden vectors: ``python tests/golden/generate.py [--check]``.

One JSON file an operator. A case has ``attributes``, ``inputs`` and ``outputs``; an array is
``{"dtype", "shape", "data"}`` in row-major order, float32 data as its 32 bits in hexadecimal.
What is expected is computed by ``naive.py`` only. With ``--check`` nothing is written, and the
exit status says whether the files are current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
try:
    from tests.golden import naive
except ImportError:  # run as a script
    import naive  # type: ignore[no-redef]

SEED = 20250101
Case = dict[str, Any]


def pack_array(array: np.ndarray) -> dict[str, Any]:
    if array.dtype == np.float32:
        data = [f"{bits:08x}" for bits in array.view(np.uint32).reshape(-1).tolist()]
    else:
        data = array.reshape(-1).tolist()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def unpack_array(stored: dict[str, Any]) -> np.ndarray:
    if stored["dtype"] == "float32":
        bits = np.array([int(text, 16) for text in stored["data"]], dtype=np.uint32)
        return bits.view(np.float32).reshape(stored["shape"])
    return np.array(stored["data"], dtype=stored["dtype"]).reshape(stored["shape"])


def case(name: str, inputs: dict[str, Any], outputs: dict[str, Any], **attributes: Any) -> Case:
    return {
        "name": name,
        "attributes": attributes,
        "inputs": {key: pack_array(np.asarray(value)) for key, value in inputs.items()},
        "outputs": {key: pack_array(np.asarray(value)) for key, value in outputs.items()},
    }


def int32(array: np.ndarray) -> np.ndarray:
    assert np.abs(array).max(initial=0) < 2**31
    return array.astype(np.int32)


def maps(rng: np.random.RandomState, *shape: int) -> np.ndarray:
    return rng.randint(-128, 128, shape, dtype=np.int64).astype(np.int8)


def unsigned_maps(rng: np.random.RandomState, *shape: int) -> np.ndarray:
    return rng.randint(0, 256, shape, dtype=np.int64).astype(np.uint8)


def random_codes(rng: np.random.RandomState, terms: int, reduction: int, out: int) -> np.ndarray:
    """Valid codes ``[K, R, O]``: distinct magnitudes 1 to 7 in any order, some zeros."""
    magnitudes = np.argsort(rng.random_sample((7, reduction, out)), axis=0)[:terms] + 1
    signs = rng.randint(0, 2, magnitudes.shape, dtype=np.int64) * 8
    keep = rng.random_sample(magnitudes.shape) < 0.8
    return np.where(keep, magnitudes + signs, 0).astype(np.uint8)


def pack_codes(codes: np.ndarray) -> np.ndarray:
    terms, reduction, out = codes.shape
    packed = np.zeros((terms, (reduction + 1) // 2, out), dtype=np.uint8)
    for k, r, o in np.ndindex(codes.shape):
        packed[k, r // 2, o] += int(codes[k, r, o]) << (4 * (r % 2))
    return packed


def layer(
    rng: np.random.RandomState, terms: int, *shape: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed codes, decoded weight of ``shape`` and a bias."""
    codes = random_codes(rng, terms, int(np.prod(shape[:-1])), shape[-1])
    packed = pack_codes(codes)
    decoded = naive.weight(naive.unpack(packed, codes.shape[1]), shape)
    return (
        packed,
        decoded,
        rng.randint(-(2**17), 2**17, shape[-1:], dtype=np.int64).astype(np.int32),
    )


def codes(rng: np.random.RandomState) -> Iterator[Case]:
    """Every value that K terms make, with its canonical codes; random codes, packed."""
    for terms in (1, 2, 3):
        found = {value: naive.canonical(value, terms) for value in range(-112, 113)}
        values = [value for value, own in found.items() if own is not None]
        table = np.array([found[value] for value in values], dtype=np.uint8).T
        yield case(
            f"canonical_k{terms}",
            {"values": np.array(values, dtype=np.int32)},
            {"codes": table},
            terms=terms,
        )
    for terms, reduction, out in ((1, 1, 1), (2, 5, 3), (3, 8, 4)):
        plain = random_codes(rng, terms, reduction, out)
        yield case(
            f"packed_k{terms}_r{reduction}_o{out}",
            {"codes": plain},
            {
                "packed": pack_codes(plain),
                "weight": naive.weight(plain, (reduction, out)).astype(np.int32),
            },
            reduction=reduction,
        )


def quantize(rng: np.random.RandomState) -> Iterator[Case]:
    special = np.array(
        [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-40, 1.2e-38, 3.4e38, -3.4e38],
        dtype=np.float32,
    )
    for exponent in (-9, -3, 0, 4, 7, 20):
        ties = np.ldexp(np.arange(-6, 7, dtype=np.float32) / 2, -exponent)
        edges = np.ldexp(
            np.array([126.5, 127.4, 127.5, 128, 129, -127.5, -128, -128.5, -129, 255.9, 300]),
            -exponent,
        )
        spread = np.ldexp(rng.random_sample(12) * 200 - 100, -exponent)
        x = np.concatenate([special, ties, edges, spread]).astype(np.float32)
        out = naive.quantize(x, exponent)
        yield case(f"exponent_{exponent}", {"x": x}, {"y": out}, exponent=exponent)
    for exponent in (-9, 4, 20):
        edges = np.array([254.5, 255, 255.4, 255.5, 256, 300, 0.5, 1.5, -0.4, -0.6, -128])
        spread = rng.random_sample(12) * 300 - 30
        scaled = np.ldexp(np.concatenate([edges, spread]), -exponent)
        x = np.concatenate([special, scaled]).astype(np.float32)
        out = naive.quantize(x, exponent, "uint8")
        name = f"uint8_exponent_{exponent}"
        yield case(name, {"x": x}, {"y": out}, exponent=exponent, dtype="uint8")


def dequantize(rng: np.random.RandomState) -> Iterator[Case]:
    for name, x, exponent in (
        ("int8", maps(rng, 3, 4), [5]),
        ("int8_negative_exponent", maps(rng, 2, 4), [-3]),
        (
            "int32_channels",
            rng.randint(-(2**31), 2**31, (6, 4), dtype=np.int64).astype(np.int32),
            [0, 7, 19, -2],
        ),
        (
            "int32_rounding",
            np.array([[2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, -(2**31)]], dtype=np.int32),
            [12],
        ),
        ("uint8", unsigned_maps(rng, 3, 4), [5]),
    ):
        out = naive.dequantize(x, exponent)
        yield case(name, {"x": x, "exponent": np.array(exponent, dtype=np.int32)}, {"y": out})


def conv2d(rng: np.random.RandomState) -> Iterator[Case]:
    for name, size, kernel, channels, out, terms, extra in (
        ("1x1_k1", (3, 3), (1, 1), 5, 3, 1, {}),
        ("3x3_same_k2", (4, 5), (3, 3), 3, 4, 2, {"padding": (1, 1, 1, 1)}),
        ("3x3_stride2_k3", (7, 6), (3, 3), 2, 3, 3, {"strides": (2, 2), "padding": (1, 1, 1, 1)}),
        ("asymmetric_pads", (5, 4), (3, 2), 3, 2, 2, {"padding": (0, 1, 2, 0)}),
        ("dilated", (7, 7), (3, 3), 2, 2, 2, {"dilation": (2, 3), "padding": (0, 2, 1, 2)}),
        ("grouped", (4, 4), (3, 3), 6, 4, 2, {"groups": 2, "padding": (1, 1, 1, 1)}),
        (
            "depthwise_stride2",
            (6, 6),
            (3, 3),
            5,
            5,
            2,
            {"groups": 5, "strides": (2, 2), "padding": (0, 0, 1, 1)},
        ),
        ("depthwise_multiplier2", (4, 4), (2, 2), 3, 6, 3, {"groups": 3}),
        ("map_1x1_padded", (1, 1), (3, 3), 3, 3, 2, {"padding": (1, 1, 1, 1)}),
        ("kernel_1x5_stride_3x2", (7, 9), (1, 5), 2, 3, 1, {"strides": (3, 2)}),
        ("uint8_3x3", (5, 4), (3, 3), 3, 4, 3, {"padding": (1, 1, 1, 1)}),
        ("uint8_depthwise", (4, 4), (3, 3), 5, 5, 2, {"groups": 5, "padding": (1, 1, 1, 1)}),
    ):
        attributes: dict[str, Any] = {
            "strides": (1, 1),
            "padding": (0, 0, 0, 0),
            "dilation": (1, 1),
            "groups": 1,
            **extra,
        }
        shape = (*kernel, channels // attributes["groups"], out)
        packed, decoded, bias = layer(rng, terms, *shape)
        draw = unsigned_maps if name.startswith("uint8") else maps
        x = draw(rng, 2 if size[0] < 5 else 1, *size, channels)
        y = int32(naive.conv2d(x, decoded, bias, **attributes))
        inputs = {"x": x, "codes": packed, "bias": bias}
        yield case(name, inputs, {"y": y}, weight_shape=shape, **attributes)


def conv2d_transpose(rng: np.random.RandomState) -> Iterator[Case]:
    for name, size, kernel, extra in (
        ("plain", (3, 3), (2, 2), {}),
        ("stride2", (3, 4), (3, 3), {"strides": (2, 2), "padding": (1, 1, 1, 1)}),
        ("output_padding", (3, 2), (3, 3), {"strides": (2, 3), "output_padding": (1, 2)}),
        ("asymmetric", (4, 3), (3, 2), {"strides": (2, 1), "padding": (0, 1, 2, 0)}),
        ("dilated", (3, 3), (2, 3), {"dilation": (3, 2), "padding": (1, 0, 1, 2)}),
        ("uint8", (3, 3), (3, 3), {"strides": (2, 2), "padding": (1, 1, 1, 1)}),
    ):
        attributes: dict[str, Any] = {
            "strides": (1, 1),
            "padding": (0, 0, 0, 0),
            "output_padding": (0, 0),
            "dilation": (1, 1),
            **extra,
        }
        shape = (*kernel, 3, 2)
        packed, decoded, bias = layer(rng, 2, *shape)
        x = (unsigned_maps if name == "uint8" else maps)(rng, 1, *size, 3)
        y = int32(naive.conv2d_transpose(x, decoded, bias, **attributes))
        inputs = {"x": x, "codes": packed, "bias": bias}
        yield case(name, inputs, {"y": y}, weight_shape=shape, **attributes)


def dense(rng: np.random.RandomState) -> Iterator[Case]:
    for rows, inputs, out, terms, draw in (
        (1, 1, 1, 1, maps),
        (2, 7, 5, 2, maps),
        (3, 16, 4, 3, maps),
        (2, 9, 5, 3, unsigned_maps),
    ):
        packed, decoded, bias = layer(rng, terms, inputs, out)
        x = draw(rng, rows, inputs)
        yield case(
            f"{inputs}_to_{out}_k{terms}",
            {"x": x, "codes": packed, "bias": bias},
            {"y": int32(naive.dense(x, decoded, bias))},
            weight_shape=(inputs, out),
        )


def adder_conv2d(rng: np.random.RandomState) -> Iterator[Case]:
    """Weights reach beyond int8: ``weight`` is what they are clipped to, ``bias`` has the rest."""
    for name, size, kernel, channels, out, extra in (
        ("1x1", (3, 3), (1, 1), 5, 3, {}),
        ("3x3_same", (4, 5), (3, 3), 3, 4, {"padding": (1, 1, 1, 1)}),
        ("3x3_stride2", (7, 6), (3, 3), 2, 3, {"strides": (2, 2), "padding": (1, 1, 1, 1)}),
        ("asymmetric_pads", (5, 4), (3, 2), 3, 2, {"padding": (0, 1, 2, 0)}),
        ("map_1x1_padded", (1, 1), (3, 3), 3, 3, {"padding": (1, 1, 1, 1)}),
        ("kernel_1x5_stride_3x2", (7, 9), (1, 5), 2, 3, {"strides": (3, 2)}),
    ):
        attributes: dict[str, Any] = {"strides": (1, 1), "padding": (0, 0, 0, 0), **extra}
        x, real, clipped, bias, folded = _adder_layer(rng, size, (*kernel, channels, out))
        y = int32(naive.adder_conv2d(x, real, bias, **attributes))
        inputs = {"x": x, "weight": clipped, "bias": folded}
        yield case(name, inputs, {"y": y}, **attributes)


def adder_dense(rng: np.random.RandomState) -> Iterator[Case]:
    for rows, inputs, out in ((1, 1, 1), (2, 7, 5), (3, 16, 4)):
        x, real, clipped, bias, folded = _adder_layer(rng, (), (inputs, out), rows)
        y = int32(naive.adder_dense(x, real, bias))
        yield case(f"{inputs}_to_{out}", {"x": x, "weight": clipped, "bias": folded}, {"y": y})


def fold_weight(rng: np.random.RandomState) -> Iterator[Case]:
    edges = np.array([[-129, -128, -127, 0], [126, 127, 128, -3000], [2**20, 5, -300, 200]])
    for name, weight in (("edges", edges), ("random", rng.randint(-400, 400, (2, 3, 4)))):
        weight = weight.astype(np.int64)
        clipped, offset = naive.fold(weight)
        yield case(name, {"weight": weight}, {"weight": clipped, "offset": offset})


def _adder_layer(
    rng: np.random.RandomState, size: tuple[int, ...], shape: tuple[int, ...], images: int = 1
) -> tuple[np.ndarray, ...]:
    """An input, weights beyond int8, what they are clipped to, a bias, and that of the clipped."""
    x = maps(rng, images, *size, shape[-2])
    real = rng.randint(-200, 200, shape, dtype=np.int64)
    clipped, offset = naive.fold(real)
    bias = rng.randint(-(2**17), 2**17, shape[-1:], dtype=np.int64)
    return x, real, clipped, bias, int32(bias + offset)


def scale(rng: np.random.RandomState) -> Iterator[Case]:
    wide = rng.randint(-(2**24), 2**24, (2, 3, 4), dtype=np.int64).astype(np.int32)
    for name, x, terms, channels in (
        ("one_copy", wide, 1, 4),
        ("two_copies", wide, 2, 4),
        ("three_copies", wide, 3, 4),
        ("one_factor", wide, 3, 1),
        ("int8", maps(rng, 3, 4), 3, 4),
        ("uint8", unsigned_maps(rng, 3, 4), 3, 4),
    ):
        own = random_codes(rng, terms, 1, channels)[:, 0]
        yield case(name, {"x": x, "codes": own}, {"y": int32(naive.scale(x, own))})


def requantize(rng: np.random.RandomState) -> Iterator[Case]:
    halves = np.array([-7, -6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 7], dtype=np.int32)[:, None]
    wide = rng.randint(-(2**30), 2**30, (6, 4), dtype=np.int64).astype(np.int32)
    for name, acc, shift, lo, hi in (
        ("halves_round_up", halves, [1], -128, 127),
        ("quarters", halves, [2], -128, 127),
        ("no_shift", halves * 40, [0], -128, 127),
        ("left_shift", halves, [-5], -128, 127),
        ("relu", halves * 9, [1], 0, 127),
        ("relu6_on_scale_4", halves * 99, [2], 0, 96),
        ("channels", wide, [23, 26, 30, 31], -128, 127),
        ("mixed_signs", maps(rng, 5, 4).astype(np.int32), [-3, 0, 2, 8], -100, 99),
        ("int8", maps(rng, 4, 3), [2, -1, 0], -128, 127),
    ):
        out = naive.requantize(acc, shift, lo, hi)
        inputs = {"acc": acc, "shift": np.array(shift, dtype=np.int32)}
        yield case(name, inputs, {"y": out}, lo=lo, hi=hi)
    for name, acc, shift, lo, hi in (
        ("uint8_halves", halves * 20, [1], 0, 255),
        ("uint8_channels", wide, [22, 23, 24, 31], 0, 255),
        ("uint8_relu6_on_scale_5", halves * 99, [2], 0, 192),
        ("uint8_from_uint8", unsigned_maps(rng, 4, 3), [2, -1, 0], 0, 255),
        ("uint8_from_int8", maps(rng, 4, 3), [1, -1, 0], 0, 255),
    ):
        out = naive.requantize(acc, shift, lo, hi, "uint8")
        inputs = {"acc": acc, "shift": np.array(shift, dtype=np.int32)}
        yield case(name, inputs, {"y": out}, lo=lo, hi=hi, dtype="uint8")
    acc, shift = unsigned_maps(rng, 4, 3), [2, -1, 0]
    inputs = {"acc": acc, "shift": np.array(shift, dtype=np.int32)}
    out = naive.requantize(acc, shift, -128, 127)
    yield case("int8_from_uint8", inputs, {"y": out}, lo=-128, hi=127)


def add(rng: np.random.RandomState) -> Iterator[Case]:
    wide = rng.randint(-(2**20), 2**20, (2, 3, 3), dtype=np.int64).astype(np.int32)
    narrow = maps(rng, 2, 3, 3)
    for name, lhs, rhs, left, right in (
        ("int8_int8", maps(rng, 2, 3, 3), narrow, [0], [2]),
        ("int32_int8", wide, narrow, [0, 3, 0], [9, 0, 0]),
        ("int32_int32", wide, wide[::-1], [4], [0, 0, 0]),
        ("uint8_int8", unsigned_maps(rng, 2, 3, 3), narrow, [0], [1]),
        ("uint8_int32", unsigned_maps(rng, 2, 3, 3), wide, [0, 3, 9], [9, 0, 0]),
    ):
        shifts = {
            "lhs_shift": np.array(left, dtype=np.int32),
            "rhs_shift": np.array(right, dtype=np.int32),
        }
        out = int32(naive.add(lhs, rhs, left, right))
        yield case(name, {"lhs": lhs, "rhs": rhs, **shifts}, {"y": out})


#: (name, map size, attributes beyond the defaults) of the pooling cases.
POOLS: tuple[tuple[str, tuple[int, int], dict[str, Any]], ...] = (
    ("2x2_stride2", (4, 6), {"pool_size": (2, 2), "strides": (2, 2)}),
    (
        "3x3_stride2_padded",
        (5, 6),
        {"pool_size": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1)},
    ),
    ("ceil_mode", (6, 5), {"pool_size": (2, 2), "strides": (3, 2), "ceil_mode": True}),
    (
        "asymmetric_ceil",
        (5, 7),
        {"pool_size": (3, 2), "strides": (2, 3), "padding": (0, 1, 1, 0), "ceil_mode": True},
    ),
    ("dilated", (6, 6), {"pool_size": (2, 2), "dilation": (2, 3), "padding": (1, 0, 0, 1)}),
    ("global_7x7", (7, 7), {"pool_size": (7, 7)}),
)


def _pools(rng: np.random.RandomState) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
    defaults = {
        "strides": (1, 1),
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
        "ceil_mode": False,
    }
    for name, size, extra in POOLS:
        attributes = {**defaults, **extra}
        yield name, maps(rng, 1, *size, 3), attributes
    for name, size, extra in POOLS[1:3]:
        attributes = {**defaults, **extra}
        yield f"uint8_{name}", unsigned_maps(rng, 1, *size, 3), attributes


def max_pool2d(rng: np.random.RandomState) -> Iterator[Case]:
    for name, x, attributes in _pools(rng):
        yield case(name, {"x": x}, {"y": naive.max_pool2d(x, **attributes)}, **attributes)


def avg_pool2d(rng: np.random.RandomState) -> Iterator[Case]:
    for name, x, attributes in _pools(rng):
        for include in (False, True) if any(attributes["padding"]) else (False,):
            attributes["count_include_pad"] = include
            y, shift = naive.avg_pool2d(x, **attributes)
            yield case(
                name + ("_pad_counts" if include else ""),
                {"x": x},
                {"y": int32(y)},
                reciprocal_shift=shift,
                **attributes,
            )


def layout(rng: np.random.RandomState) -> Iterator[Case]:
    """clip, concat, pad and upsample2d; the case's name is the operator's."""
    x, other = maps(rng, 1, 3, 2, 4), maps(rng, 1, 3, 2, 1)
    clipped = np.array([max(-5, min(60, int(v))) for v in x.reshape(-1)], dtype=np.int8)
    yield case("clip", {"x": x}, {"y": clipped.reshape(x.shape)}, lo=-5, hi=60)
    joined = np.zeros((1, 3, 2, 5), dtype=np.int8)
    joined[..., :4], joined[..., 4:] = x, other
    yield case("concat", {"x": x, "other": other}, {"y": joined}, axis=3)
    width = [0, 0, 1, 0, 2, 1, 0, 3]
    yield case("pad", {"x": x}, {"y": naive.pad(x, width)}, pad_width=width)
    yield case("upsample2d", {"x": x}, {"y": naive.upsample2d(x, (2, 3))}, scale=(2, 3))
    x, other = unsigned_maps(rng, 1, 3, 2, 4), unsigned_maps(rng, 1, 3, 2, 1)
    clipped = np.array([max(5, min(160, int(v))) for v in x.reshape(-1)], dtype=np.uint8)
    yield case("clip", {"x": x}, {"y": clipped.reshape(x.shape)}, lo=5, hi=160)
    joined = np.zeros((1, 3, 2, 5), dtype=np.uint8)
    joined[..., :4], joined[..., 4:] = x, other
    yield case("concat", {"x": x, "other": other}, {"y": joined}, axis=3)
    yield case("pad", {"x": x}, {"y": naive.pad(x, width)}, pad_width=width)
    yield case("upsample2d", {"x": x}, {"y": naive.upsample2d(x, (2, 3))}, scale=(2, 3))


FILES: dict[str, Callable[[np.random.RandomState], Iterator[Case]]] = {
    maker.__name__: maker
    for maker in (
        codes,
        quantize,
        dequantize,
        conv2d,
        conv2d_transpose,
        dense,
        adder_conv2d,
        adder_dense,
        fold_weight,
        scale,
        requantize,
        add,
        max_pool2d,
        avg_pool2d,
        layout,
    )
}


def text(name: str) -> str:
    """The content of one file: a case a line, so that a change shows which case it touches."""
    # RandomState, because its stream is frozen while that of default_rng may change with NumPy;
    # one each, so that a file does not depend on another.
    rng = np.random.RandomState([SEED, *name.encode()])
    cases = ",\n".join(json.dumps(one, separators=(",", ":")) for one in FILES[name](rng))
    return f'{{"file":"{name}","cases":[\n{cases}\n]}}\n'


def main(arguments: list[str]) -> int:
    stale = []
    for name in FILES:
        path = FOLDER / f"{name}.json"
        content = text(name)
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            path.write_text(content, encoding="utf-8")
    print("stale:" if stale else "all golden vectors are current", *stale)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
