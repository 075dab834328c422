"""Read an ONNX file and refuse, before anything is allocated for it, what cannot be imported."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from tvm_shiftadd.errors import ModelError

MIN_OPSET, MAX_OPSET = 7, 22

#: The largest message protobuf can hold.
MAX_FILE_BYTES = 2**31 - 1

_FOUR_BIT_TYPES = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("UINT4", "INT4", "FLOAT4E2M1")
    if hasattr(onnx.TensorProto, name)
)

_TYPE_NAMES = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}

#: Operators for which an infinite constant is an open bound, not a broken weight.
_BOUND_OPERATORS = frozenset({"Clip", "Max", "Min", "Where", "Pad", "ConstantOfShape"})


@dataclass(frozen=True)
class OnnxSource:
    """A model that passed the checks, its opset, the SHA-256 of its bytes, a name for messages."""

    model: onnx.ModelProto
    opset: int
    sha256: str
    label: str


def read_model(source: Any) -> OnnxSource:
    """Read and check a model.

    Args:
        source: a path or an ``onnx.ModelProto`` (which is left as it is).

    Raises:
        ModelError: with the one thing that is wrong.
    """
    if isinstance(source, onnx.ModelProto):
        try:
            data = source.SerializeToString(deterministic=True)
        except (EncodeError, ValueError):
            raise ModelError(
                "Expected an ONNX model of less than 2 GiB; keep larger weights as external data."
            ) from None
        label, folder = "The ONNX model", None
    else:
        path = Path(os.fspath(source))
        data, label, folder = _read_bytes(path), f"'{path}'", path.parent
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            f"{label} is not a readable ONNX model: it is truncated or of another format."
        ) from None

    _check_graph(model, label)
    opset = _opset(model, label)
    digest = hashlib.sha256(data)
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _load_external(tensor, folder)
            digest.update(tensor.raw_data)
        _check_size(tensor)
    _check_finite(model)
    return OnnxSource(model, opset, digest.hexdigest(), label)


def check_valid(source: OnnxSource) -> None:
    """Hold the model against the operators' definitions, as ONNX's own checker does.

    Raises:
        ModelError: with the checker's first line.
    """
    for value in source.model.graph.output:
        # The checker insists on a shape; results are typed anew on import, so any will do.
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(source.model)
    except Exception as error:  # the checker raises several unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown reason"
        raise ModelError(
            f"{source.label} is not a valid ONNX model: {reason.rstrip('.')}."
        ) from None


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise ModelError(f"No model at '{path}': check the path.")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise ModelError(f"Expected an ONNX file, but '{path}' is {kind}.")
    try:
        size = path.stat().st_size
        if size == 0:
            raise ModelError(f"'{path}' is empty: expected an ONNX model.")
        if size > MAX_FILE_BYTES:
            raise ModelError(
                f"'{path}' has {size} bytes, more than the 2 GiB an ONNX file can have; keep "
                "larger weights as external data."
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}.") from None


def _check_graph(model: onnx.ModelProto, label: str) -> None:
    graph = model.graph
    if not graph.output or not graph.node:
        raise ModelError(
            f"{label} is not an ONNX model: it has no operators or no outputs, so it is truncated "
            "or of another format."
        )
    if graph.sparse_initializer:
        raise ModelError(f"{label} holds sparse weights: store them as dense tensors.")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not inputs:
        raise ModelError(f"{label} has no inputs: expected at least one float32 input.")
    for value in inputs:
        kind = value.type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            got = _TYPE_NAMES.get(kind, f"of the unknown type {kind}") if kind else "no tensor"
            raise ModelError(f"Expected float32 inputs, but input '{value.name}' is {got}.")


def _opset(model: onnx.ModelProto, label: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError(f"{label} names no ONNX operator set: it is truncated or malformed.")
    opset = int(versions[0])
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ModelError(
            f"{label} uses ONNX opset {opset}, but {MIN_OPSET} to {MAX_OPSET} are handled: export "
            "it again, or use onnx.version_converter."
        )
    return opset


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in the model: weights, constants, and those in subgraphs."""
    yield from model.graph.initializer
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _node_tensors(nodes)


def _node_tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            graphs = [attribute.g] if attribute.HasField("g") else []
            for graph in (*graphs, *attribute.graphs):
                yield from graph.initializer
                yield from _node_tensors(graph.node)


def _check_size(tensor: onnx.TensorProto) -> None:
    """Compare the size a tensor claims with the data it holds; nothing is allocated."""
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"Tensor '{tensor.name}' has a negative dimension: {list(tensor.dims)}.")
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        expected, held, unit = count, len(tensor.string_data), "strings"
    elif tensor.HasField("raw_data"):
        expected, held, unit = _byte_count(tensor, count), len(tensor.raw_data), "bytes"
    else:
        expected, held, unit = _typed_counts(tensor, count)
    if expected != held:
        raise ModelError(
            f"Tensor '{tensor.name}' claims the shape {list(tensor.dims)}, which needs {expected} "
            f"{unit}, but holds {held}: the file is damaged."
        )


def _byte_count(tensor: onnx.TensorProto, count: int) -> int:
    if tensor.data_type in _FOUR_BIT_TYPES:
        return (count + 1) // 2
    try:
        return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError):
        raise ModelError(
            f"Tensor '{tensor.name}' has the unknown data type {tensor.data_type}."
        ) from None


def _typed_counts(tensor: onnx.TensorProto, count: int) -> tuple[int, int, str]:
    kind = onnx.TensorProto
    if tensor.data_type in (kind.FLOAT, kind.COMPLEX64):
        held = len(tensor.float_data)
    elif tensor.data_type in (kind.DOUBLE, kind.COMPLEX128):
        held = len(tensor.double_data)
    elif tensor.data_type == kind.INT64:
        held = len(tensor.int64_data)
    elif tensor.data_type in (kind.UINT32, kind.UINT64):
        held = len(tensor.uint64_data)
    else:
        held = len(tensor.int32_data)
    expected = count
    if tensor.data_type in (kind.COMPLEX64, kind.COMPLEX128):
        expected = 2 * count
    elif tensor.data_type in _FOUR_BIT_TYPES:
        expected = (count + 1) // 2
    return expected, held, "values"


def _load_external(tensor: onnx.TensorProto, folder: Path | None) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(
            f"Tensor '{tensor.name}' is kept in the file '{location}': pass the model's path "
            "instead of its ModelProto."
        )
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or not path.is_relative_to(root) or Path(location).is_absolute():
        raise ModelError(
            f"Tensor '{tensor.name}' is kept in '{location}', outside the model's folder: move "
            "the file beside the model."
        )
    if not path.is_file():
        raise ModelError(f"Tensor '{tensor.name}' is kept in '{path}', which is missing.")
    expected = _byte_count(tensor, math.prod(tensor.dims))
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", expected))
    except ValueError:
        raise ModelError(f"Tensor '{tensor.name}' has a malformed external offset.") from None
    size = path.stat().st_size
    if length != expected or offset < 0 or offset + length > size:
        raise ModelError(
            f"Tensor '{tensor.name}' needs {expected} bytes at offset {offset} of '{location}', "
            f"but the entry claims {length} and the file has {size}."
        )
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _check_finite(model: onnx.ModelProto) -> None:
    """Refuse NaN and infinite weights; an infinite bound of a Clip is fine."""
    readers: dict[str, set[str]] = {}
    named = list(model.graph.initializer)
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                copy = onnx.TensorProto()
                copy.CopyFrom(attribute.t)
                copy.name = node.output[0]
                named.append(copy)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    for tensor in named:
        if tensor.data_type not in floats:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            continue
        if not np.isnan(values).any() and readers.get(tensor.name, set()) <= _BOUND_OPERATORS:
            continue
        what = "NaN" if np.isnan(values).any() else "infinite values"
        count = int(values.size - np.isfinite(values).sum())
        raise ModelError(
            f"Tensor '{tensor.name}' holds {what} ({count} of {values.size}): expected finite "
            "weights; export the model again from a sound checkpoint."
        )
