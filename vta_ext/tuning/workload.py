"""A layer as the tuner and its database see it: all that its cycles depend on, and no numbers.

So records serve other networks; a process that tries a candidate makes up numbers.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.errors import InputError
from vta_ext.compiler.layers import Finish, Layer, MatrixTerm, Phase, Tensor, Window
from vta_ext.compiler.matrix import prepare
from vta_ext.config import Config


def text_of(workload: Mapping[str, Any]) -> str:
    """A workload as text that is equal for equal ones: compact JSON, keys in order."""
    return json.dumps(workload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def workload_of(layer: Layer, config: Config) -> dict[str, Any] | None:
    """What a layer's cycles depend on, as plain values; None where it is not tuned: pooling."""
    if not all(isinstance(term, MatrixTerm) for term in layer.terms):
        return None
    finish = layer.finish
    return {
        "output": _tensor(layer.output),
        "terms": [_term(layer, number, config) for number in range(len(layer.terms))],
        "finish": None if finish is None else list(finish.limits or ()),
        "clip": None if layer.clip is None else list(layer.clip),
    }


def _tensor(tensor: Tensor) -> list[Any]:
    return [tensor.height, tensor.width, tensor.channels, tensor.dtype]


def _term(layer: Layer, number: int, config: Config) -> dict[str, Any]:
    term = layer.terms[number]
    assert isinstance(term, MatrixTerm)
    used = prepare(layer.name, number, term, config).used
    sources = [other.source.name for other in layer.terms]
    return {
        # Terms of one tensor have one number.
        "source": [sources.index(term.source.name), *_tensor(term.source)],
        "window": [
            list(term.window.stride),
            list(term.window.step),
            [[list(p.start), [list(tap) for tap in p.taps]] for p in term.window.phases],
        ],
        "mode": term.mode,
        "weights": list(term.weights.shape),
        "used": "all" if used.all() else _packed(used),
        "shifted": bool(term.shift.any()),
        "factor": 0 if term.factor is None else len(term.factor),
    }


def _packed(used: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(used).tobytes(), 9)).decode()


def name_of(workload: Mapping[str, Any]) -> str:
    """For people: ``shift 9 taps/1 14x14x256, K=2 -> 256``."""
    parts = []
    for term in workload["terms"]:
        taps = sum(len(taps) for _, taps in term["window"][2])
        _, height, width, channels, _ = term["source"]
        stride, planes = term["window"][0][0], term["weights"][1]
        terms = f", K={planes}" if term["mode"] == "shift" else ""
        parts.append(f"{term['mode']} {taps} taps/{stride} {height}x{width}x{channels}{terms}")
    return f"{' + '.join(parts)} -> {workload['output'][2]}"


def work_of(workload: Mapping[str, Any], config: Config) -> int:
    """Micro-ops of the matrix unit, were all tiles used."""
    height, width, outputs, _ = workload["output"]
    return sum(
        height * width * -(-outputs // config.block) * planes * taps * -(-inputs // config.block)
        for taps, planes, inputs, _ in (term["weights"] for term in workload["terms"])
    )


def layer_of(workload: Mapping[str, Any], config: Config) -> Layer:
    """A layer of that workload. Raises InputError where it is none."""
    try:
        random = np.random.default_rng(zlib.crc32(text_of(workload).encode()))
        output = Tensor("output", *workload["output"])
        terms = tuple(_term_of(term, output, config, random) for term in workload["terms"])
        finish, clip = workload["finish"], workload["clip"]
        channels = output.channels
        end = None
        if finish is not None:
            limits = (int(finish[0]), int(finish[1])) if finish else None
            end = Finish(random.integers(-900, 900, channels), np.full(channels, 9), limits)
        return Layer("layer", output, terms, end, None if clip is None else (clip[0], clip[1]))
    except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"expected a layer's workload, got another thing: {error}") from None


def _term_of(
    values: Mapping[str, Any], output: Tensor, config: Config, random: np.random.Generator
) -> MatrixTerm:
    shape, channels = tuple(values["weights"]), output.channels
    if values["mode"] == "shift":
        weights = (random.integers(1, 6, shape) | random.choice([0, 8], shape)).astype(np.uint8)
    else:
        weights = random.integers(1, 100, shape).astype(np.int8)
    if values["used"] != "all":
        weights *= _mask(values["used"], shape, config.block)
    stride, step, phases = values["window"]
    window = Window(
        tuple(stride),
        tuple(step),
        tuple(Phase(tuple(start), tuple(tuple(tap) for tap in taps)) for start, taps in phases),
    )
    factor = None
    if values["factor"]:
        factor = random.integers(1, 3, (values["factor"], channels)).astype(np.uint8)
    shift = np.full(channels, int(values["shifted"]), np.int64)
    number, *size = values["source"]
    source = Tensor(f"input{number}", *size)
    return MatrixTerm(source, window, values["mode"], weights, shift, factor)


def _mask(text: str, shape: tuple[int, ...], block: int) -> NDArray[Any]:
    """1 for weights ``[T, K, I, O]`` of tiles that are used, else 0."""
    taps, planes, inputs, outputs = shape
    blocks = (taps, planes, -(-inputs // block), -(-outputs // block))
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    used = np.unpackbits(bits)[: int(np.prod(blocks))].reshape(blocks)
    wide = used.repeat(block, axis=2).repeat(block, axis=3)
    return wide[:, :, :inputs, :outputs].astype(np.uint8)
