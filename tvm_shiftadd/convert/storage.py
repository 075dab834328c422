"""Which tensors of a network are stored as int8, and which of them share one exponent.

A weight layer, an addition and an average pool make a wide (int32) result. It stays wide only
while a single ``add`` or ``clip`` reads it, or nothing but the host does; anything else reads an
int8 tensor. Clip bounds are applied by the requantisation that ends a wide chain, so a clipped
value is always requantised before an addition, the host or the caller sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_shiftadd.convert.graph import WIDE_OPS, Graph, Node

#: Operators that move or select int8 values, so that the result keeps the exponent of the input.
SHARING_OPS = frozenset(
    {"max_pool2d", "pad", "concat", "upsample2d", "reshape", "permute", "slice"}
)


@dataclass(frozen=True)
class Storage:
    """``groups``: the int8 tensors by name; the tensors of one group share one exponent.

    ``measured`` names, for each group, the tensors whose values are used by something other than
    a member of the group: the exponent is chosen for these.
    """

    groups: tuple[tuple[str, ...], ...]
    measured: tuple[tuple[str, ...], ...]

    @property
    def tensors(self) -> frozenset[str]:
        """Every tensor that is stored as int8."""
        return frozenset(name for group in self.groups for name in group)


def stored(graph: Graph) -> Storage:
    """The int8 tensors of ``graph``, grouped by the exponent they share."""
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
    )


def _stored_names(graph: Graph) -> dict[str, None]:
    """The int8 tensors in the order in which they are made (a dict keeps that order)."""
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
