"""Which tensors of a network are stored as int8 or uint8, and which of them share one exponent.

A weight layer, an addition and an average pool make a wide (int32) result. It stays wide only
while a single ``add`` or ``clip`` reads it, or nothing but the host does; anything else reads a
stored tensor. Clip bounds are applied by the requantisation that ends a wide chain, so a clipped
value is always requantised before an addition, the host or the caller sees it.

A stored tensor is uint8 where the operators of the network prove that it is never negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tvm_shiftadd.convert.graph import ADDER_OPS, WIDE_OPS, Graph, Node

#: Operators that move or select stored values, so that the result keeps the exponent of the input.
SHARING_OPS = frozenset(
    {"max_pool2d", "pad", "concat", "upsample2d", "reshape", "permute", "slice"}
)


#: Operators whose results are not negative where their inputs are not.
_MONOTONE_OPS = SHARING_OPS | {"add", "avg_pool2d"}


@dataclass(frozen=True)
class Storage:
    """``groups``: the stored tensors by name; those of one group share one exponent and one type.

    ``measured`` names, for each group, the tensors whose values are used by something other than
    a member of the group: the exponent is chosen for these. ``unsigned``: the tensors that are
    uint8; all others are int8.
    """

    groups: tuple[tuple[str, ...], ...]
    measured: tuple[tuple[str, ...], ...]
    unsigned: frozenset[str] = frozenset()

    @property
    def tensors(self) -> frozenset[str]:
        """Every tensor that is stored."""
        return frozenset(name for group in self.groups for name in group)

    def dtype(self, name: str) -> str:
        """The type of stored tensor ``name``."""
        return "uint8" if name in self.unsigned else "int8"


def stored(graph: Graph, unsigned: bool = True) -> Storage:
    """The stored tensors of ``graph``, grouped by the exponent they share.

    unsigned: whether those that are never negative are uint8.
    """
    names = _stored_names(graph)
    root = {name: name for name in names}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    consumers = graph.consumers()
    for node in graph.nodes:
        if _shares(node, names):
            for name in node.inputs:
                # What is read elsewhere too keeps a scale of its own: a concatenation rounds such
                # an input to its own, which may be far coarser.
                alone = len(consumers[name]) == 1 and name not in graph.outputs
                if node.op != "concat" or alone:
                    root[find(name)] = find(node.output)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(find(name), []).append(name)
    return Storage(
        groups=tuple(tuple(group) for group in groups.values()),
        measured=tuple(_measured(graph, group, names) for group in groups.values()),
        unsigned=_unsigned(graph, groups.values()) if unsigned else frozenset(),
    )


def _unsigned(graph: Graph, groups: Iterable[list[str]]) -> frozenset[str]:
    """The tensors of all groups that have no negative value and no adder layer as a reader.

    Adder layers measure distances of int8 values.
    """
    positive = _never_negative(graph)
    positive -= {name for node in graph.nodes if node.op in ADDER_OPS for name in node.inputs}
    return frozenset(name for group in groups if positive.issuperset(group) for name in group)


def _never_negative(graph: Graph) -> set[str]:
    """The tensors that are never negative, whatever the input is."""
    found: set[str] = set()
    for node in graph.nodes:
        kept = node.op in _MONOTONE_OPS and found.issuperset(node.inputs)
        if kept or (node.op == "clip" and _clips_to_positive(node, node.inputs[0] in found)):
            found.add(node.output)
    return found


def _clips_to_positive(node: Node, positive: bool) -> bool:
    return float(node.attrs["lo"]) >= 0 or (positive and float(node.attrs["hi"]) >= 0)


def _stored_names(graph: Graph) -> dict[str, None]:
    """The stored tensors in the order in which they are made (a dict keeps that order)."""
    consumers = graph.consumers()
    names: dict[str, None] = {}
    floats = [*graph.inputs, *(node.output for node in graph.nodes if node.on_host)]
    for name in floats:
        if any(not reader.on_host for reader in consumers[name]):
            names[name] = None
    for node in graph.nodes:
        if node.on_host:
            continue
        wide = node.op in WIDE_OPS or (node.op == "clip" and node.inputs[0] not in names)
        if not wide or not _stays_wide(node, consumers[node.output], graph):
            names[node.output] = None
    return names


def _stays_wide(node: Node, readers: list[Node], graph: Graph) -> bool:
    """Whether the wide result of ``node`` is used as it is, without requantisation."""
    if all(reader.on_host for reader in readers):
        return node.op != "clip"
    if len(readers) != 1 or node.output in graph.outputs:
        return False
    # A clip ends in the requantisation that follows; an addition in between would come too early.
    return readers[0].op == "clip" or (readers[0].op == "add" and node.op != "clip")


def _shares(node: Node, names: dict[str, None]) -> bool:
    """Whether the result of ``node`` has the exponent of its inputs."""
    return node.op in SHARING_OPS or (node.op == "clip" and node.inputs[0] in names)


def _measured(graph: Graph, group: list[str], names: dict[str, None]) -> tuple[str, ...]:
    """The members of a group that something besides a sharing operator uses."""
    used = {name for node in graph.nodes if not _shares(node, names) for name in node.inputs}.union(
        graph.outputs
    )
    return tuple(name for name in group if name in used) or tuple(group)
