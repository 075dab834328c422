"""Other runtimes that run the same network, float and int8, with the same number of threads.

None of them is required. One that is not installed, or cannot run a model, becomes a line that
says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from tvm_shiftadd.bench import onnx_peers, torch_peers, tvm_peer
from tvm_shiftadd.bench.work import Prepared, Work
from tvm_shiftadd.errors import DependencyError, InputError

_PEERS, _TORCH = "peers", "peers-torch"


@dataclass(frozen=True)
class Peer:
    """One runtime in one precision.

    ``modules`` it needs, which the extra ``extra`` installs; ``how`` says what is run; ``prepare``
    makes a network ready for a number of threads. ``usual``: whether it takes part where nobody
    is named; the others are slow, or take long to prepare.
    """

    modules: tuple[str, ...]
    extra: str
    how: str
    prepare: Callable[[Work, int], Prepared]
    integer: bool = False
    usual: bool = True

    @property
    def absent(self) -> list[str]:
        """The modules that cannot be imported."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    @property
    def installed(self) -> bool:
        """Whether everything that it needs can be imported."""
        return not self.absent


def _onnxruntime(form: onnx_peers.Form, how: str, integer: bool = False) -> Peer:
    return Peer(("onnxruntime",), _PEERS, how, onnx_peers.onnxruntime(form), integer)


def _torch(
    how: str, prepare: Callable[[Work, int], Prepared], *modules: str, integer: bool = False
) -> Peer:
    return Peer(("torch", *modules), _TORCH, how, prepare, integer, usual=False)


PEERS: dict[str, Peer] = {
    "onnxruntime": _onnxruntime("float_model", "float"),
    "onnxruntime-int8": _onnxruntime("qdq_model", "int8, QDQ", True),
    "onnxruntime-int8-qop": _onnxruntime("qoperator_model", "int8, QOperator", True),
    "openvino": Peer(("openvino",), _PEERS, "float", onnx_peers.openvino("float_model")),
    # OpenVINO's own quantiser is a large package, nncf; it reads onnxruntime's model as well.
    "openvino-int8": Peer(
        ("openvino", "onnxruntime"), _PEERS, "int8, QDQ", onnx_peers.openvino("qdq_model"), True
    ),
    "torch": _torch("float, eager", torch_peers.eager),
    "torch-compiled": _torch("float, torch.compile", torch_peers.compiled),
    "torch-int8": _torch("int8, PT2E and torch.compile", torch_peers.int8, "torchao", integer=True),
    "torch-sums": _torch("float, eager, adder layers as sums", torch_peers.sums),
    "tvm": Peer(
        (), _PEERS, "float, default pipeline, untuned", tvm_peer.default_pipeline, usual=False
    ),
}


def choose(text: str | None) -> tuple[list[str], bool]:
    """Names of ``--peers``, and whether they were asked for; None: the usual ones.

    "none" is no peer at all, "all" every one that there is. Raises InputError for a name that is
    none, for no name, and for "all" or "none" beside another, and DependencyError for one that was
    asked for and is not installed.
    """
    if text is None:
        return [name for name, peer in PEERS.items() if peer.usual], False
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(PEERS), False
    if names == ["none"]:
        return [], True
    if not names:
        raise InputError(f"expected --peers to name some of {', '.join(PEERS)}, got {text!r}")
    for name in names:
        if name in ("all", "none"):
            raise InputError(f"expected --peers {name} to stand alone, got {text!r}")
        if name not in PEERS:
            raise InputError(
                f"expected --peers to name some of {', '.join(PEERS)}, or all, or none, "
                f"got {name!r}"
            )
        if not PEERS[name].installed:
            raise DependencyError(missing(name))
    return list(dict.fromkeys(names)), True


def missing(name: str) -> str:
    """What to do about a peer that is not installed."""
    peer = PEERS[name]
    return f"{name} needs {' and '.join(peer.absent)}; pip install 'tvm-shiftadd[{peer.extra}]'"
