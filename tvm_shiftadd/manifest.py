"""The manifest of an artifact: its schema, its encoding, and the checks made when it is read.

``manifest.json`` describes every other file of the artifact by size and SHA-256, and itself by a
checksum over its own encoding, so that a changed byte anywhere is found before anything runs.
"""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from typing import TYPE_CHECKING

import msgspec

from tvm_shiftadd import _json
from tvm_shiftadd.errors import ArtifactError

if TYPE_CHECKING:
    from tvm_shiftadd.convert.graph import Graph
    from tvm_shiftadd.convert.plan import Plan

FORMAT = "tvm-shiftadd artifact"
FORMAT_VERSION = 2
SPECIFICATION_VERSION = 2

MANIFEST = "manifest.json"
LIBRARY = "library.so"
WEIGHTS = "weights.safetensors"
REPORT = "report.json"

#: What a manifest must list, and what it may list for each kind of target besides.
CONTENTS = frozenset({LIBRARY, WEIGHTS, REPORT})
BESIDE = {"vta": re.compile(r"regions\.json|region-[0-9]{3}\.vta")}

#: Attributes of a target that are worked out from the others: what its code needs.
FEATURES, TRIPLE = "features", "triple"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the schema: immutable, and an unknown field is an error."""


class FileEntry(_Strict, frozen=True):
    """Size in bytes and SHA-256 (hexadecimal) of one file."""

    bytes: int
    sha256: str


class Source(_Strict, frozen=True):
    """The model the artifact was made from: file name, SHA-256 of its bytes, format."""

    name: str
    sha256: str
    format: str


class TargetInfo(_Strict, frozen=True):
    """What the artifact was made for: ``cpu`` or an accelerator's kind, and its attributes."""

    kind: str
    attributes: dict[str, str | int | bool | list[str]] = {}

    @property
    def asked(self) -> dict[str, str | int | bool | list[str]]:
        """The attributes without those that were worked out: what a target is read from."""
        return {k: v for k, v in self.attributes.items() if k not in (FEATURES, TRIPLE)}


class TensorInfo(_Strict, frozen=True):
    """An input, output or parameter. -1 on axis 0 stands for any batch size."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class LayerInfo(_Strict, frozen=True):
    """The integers' meaning in one layer.

    ``terms`` is K, the most terms a weight has. ``input_exponents`` and ``output_exponent`` are a
    in the scale 2^-a of a stored tensor and ``input_dtypes`` and ``output_dtype`` its type, int8 or
    uint8; None where that tensor is not stored.
    ``weight_exponents`` is b in the scale 2^-b of the weights, one per output channel; an adder
    layer's weights are on the input's scale. ``factor_exponents`` is what the accumulator's scale
    gains by a factor of shifted copies, one per output channel, where there is one.
    """

    name: str
    op: str
    terms: int | None = None
    input_exponents: tuple[int | None, ...] = ()
    output_exponent: int | None = None
    weight_exponents: tuple[int, ...] = ()
    factor_exponents: tuple[int, ...] = ()
    input_dtypes: tuple[str | None, ...] = ()
    output_dtype: str | None = None


class IntegerSpecification(_Strict, frozen=True):
    """Which version of docs/integer-specification.md holds, and the scales of every layer."""

    version: int = SPECIFICATION_VERSION
    layers: tuple[LayerInfo, ...] = ()

    @classmethod
    def of(cls, graph: Graph, plan: Plan) -> IntegerSpecification:
        """Collect the scales that ``plan`` gives to the region operators of ``graph``."""
        layers = []
        for node in graph.nodes:
            if node.on_host:
                continue
            layer = plan.layers.get(node.name)
            made = layer or plan.adders.get(node.name)
            factor = made.factor if made else None
            layers.append(
                LayerInfo(
                    name=node.name,
                    op=node.op,
                    terms=layer.terms if layer else None,
                    input_exponents=tuple(plan.exponents.get(name) for name in node.inputs),
                    output_exponent=plan.exponents.get(node.output),
                    weight_exponents=(
                        tuple(int(b) for b in layer.weight_exponent.ravel()) if layer else ()
                    ),
                    factor_exponents=(
                        tuple(int(q) for q in factor.exponent.ravel()) if factor else ()
                    ),
                    input_dtypes=tuple(_dtype(plan, name) for name in node.inputs),
                    output_dtype=_dtype(plan, node.output),
                )
            )
        return cls(layers=tuple(layers))


def _dtype(plan: Plan, name: str) -> str | None:
    return plan.dtype(name) if name in plan.exponents else None


class Manifest(_Strict, frozen=True):
    """Everything about an artifact except its code and its weights."""

    format: str
    format_version: int
    project_version: str
    tvm_version: str
    source: Source
    target: TargetInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    parameters: tuple[TensorInfo, ...]
    integer_specification: IntegerSpecification
    files: dict[str, FileEntry]
    checksum: str = ""


class _Envelope(msgspec.Struct):
    """The two fields that every version of the format keeps."""

    format: str
    format_version: int


def seal(manifest: Manifest) -> Manifest:
    """The same manifest with the checksum over all its other fields."""
    blank = msgspec.structs.replace(manifest, checksum="")
    return msgspec.structs.replace(manifest, checksum=hashlib.sha256(encode(blank)).hexdigest())


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; the same fields always give the same bytes."""
    return _json.encode_indented(manifest)


def decode(text: bytes, where: str) -> Manifest:
    """Read a manifest; ``where`` names it in messages.

    Raises :class:`ArtifactError` for another format or version, an unknown or missing field, a
    file name that leaves the folder, and a checksum that does not match.
    """
    envelope = read_envelope(text)
    if envelope is None:
        raise ArtifactError(f"{where} is not the manifest of a {FORMAT}; compile the model again")
    if envelope != FORMAT_VERSION:
        newer = "upgrade tvm-shiftadd" if envelope > FORMAT_VERSION else "compile the model again"
        raise ArtifactError(
            f"{where} has format version {envelope}, this program reads {FORMAT_VERSION}; {newer}"
        )
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is damaged ({error}); compile the model again") from None
    for name in manifest.files:
        if not _PLAIN_NAME.fullmatch(name):
            raise ArtifactError(
                f"{where} lists a file {name!r} that leaves the artifact's folder; do not use it"
            )
    if encode(seal(manifest)) != text:
        raise ArtifactError(f"{where} was altered: its checksum does not match; compile it again")
    if set(manifest.files) - beside(manifest) != CONTENTS:
        listed = ", ".join(sorted(manifest.files)) or "nothing"
        raise ArtifactError(
            f"{where} must list {', '.join(sorted(CONTENTS))} but lists {listed}; compile it again"
        )
    return manifest


def beside(manifest: Manifest) -> frozenset[str]:
    """The files that the target's kind adds."""
    pattern = BESIDE.get(manifest.target.kind)
    return frozenset(name for name in manifest.files if pattern and pattern.fullmatch(name))


def is_ours(name: str) -> bool:
    """Whether some artifact may hold a file of that name."""
    return name in CONTENTS | {MANIFEST} or any(p.fullmatch(name) for p in BESIDE.values())


def read_envelope(text: bytes) -> int | None:
    """The format version, or None if this is not a manifest of ours at all."""
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return envelope.format_version if envelope.format == FORMAT else None


def installed_tvm() -> str:
    """The version of the installed TVM, found without importing it."""
    try:
        return metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        # TVM built from source and put on the path has no distribution to ask.
        import tvm

        return str(tvm.__version__)
