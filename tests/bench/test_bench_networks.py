"""Whole networks beside their peers: who takes part, what is checked, what is reported."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_shiftadd import _json
from tvm_shiftadd.bench import inputs, networks, peers
from tvm_shiftadd.bench.networks import OURS
from tvm_shiftadd.bench.work import Prepared
from tvm_shiftadd.data import Dataset
from tvm_shiftadd.errors import DataError, InputError, ModelError, VerificationError

pytestmark = pytest.mark.usefixtures("short")


@pytest.fixture
def task(artifact, model, model_file: Path, images: np.ndarray) -> networks.Task:
    return inputs.task(artifact, model=model, onnx=model_file, data=Dataset(images), batch=2)


def test_everybody_runs_the_same_inputs(task: networks.Task, images: np.ndarray) -> None:
    pytest.importorskip("onnxruntime")
    found = networks.bench(task, names=["onnxruntime", "onnxruntime-int8"], rounds=2)
    (group,) = found.groups
    assert (group.threads, group.clock) == (1, "cpu")
    assert [row.name for row in group.rows] == [OURS, "onnxruntime", "onnxruntime-int8"]
    ours, float32, int8 = group.rows
    assert ours.times_ours is None
    assert ours.error is not None and float32.error is not None
    assert 0 < ours.error < 0.2
    assert float32.error < 1e-5
    for row in group.rows:
        assert row.wall is not None and row.cpu is not None
        assert row.wall[0] <= row.wall[1] <= row.wall[2]
        assert row.same_class is not None
    assert float32.times_ours is not None and int8.times_ours is not None
    assert int8.weight_bytes is not None and float32.weight_bytes is not None
    assert int8.weight_bytes < float32.weight_bytes
    assert (found.batch, found.model, found.inputs) == (2, "tiny.onnx", "16 images")
    assert task.feed["x"].tobytes() == images[:2].tobytes()
    _json.encode(found.to_dict())


def test_the_table(task: networks.Task) -> None:
    (table,) = networks.bench(task, names=[], rounds=1).tables()
    assert table.title == "A run on 1 thread"
    assert [row[0] for row in table.rows] == [OURS]
    assert len(table.rows[0]) == len(table.columns)


def test_a_missing_peer_is_a_line(task: networks.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name)
    )
    found = networks.bench(task, names=["openvino"], rounds=1)
    row = found.groups[0].rows[1]
    assert (row.name, row.wall, row.times_ours) == ("openvino", None, None)
    assert "pip install" in row.note
    shown = found.tables()[0].rows[1]
    assert shown[:2] == ("openvino", row.note)
    with pytest.raises(ModelError, match="pip install"):
        networks.bench(task, names=["openvino"], asked=True, rounds=1)


def broken(*_arguments: Any) -> Prepared:
    raise RuntimeError("no kernel\nfor this")


def wrong(*_arguments: Any) -> Prepared:
    return Prepared(lambda: [np.ones((2, 5), np.float32)], 0)


@pytest.mark.parametrize(
    ("start", "integer", "note"),
    [(broken, False, "could not run the model: no kernel"), (wrong, False, "differ by")],
)
def test_a_peer_that_fails_is_not_timed(
    task: networks.Task, monkeypatch: pytest.MonkeyPatch, start: Any, integer: bool, note: str
) -> None:
    peer = peers.Peer(("numpy",), "peers", "float", start, integer)
    monkeypatch.setitem(peers.PEERS, "fake", peer)
    row = networks.bench(task, names=["fake"], rounds=1).groups[0].rows[1]
    assert note in row.note
    assert row.wall is None


def test_an_artifact_alone(artifact) -> None:
    """Without its model nothing is known of float, and the peers have nothing to run."""
    found = networks.bench(inputs.task(artifact), names=["onnxruntime"], rounds=1)
    ours, peer = found.groups[0].rows
    assert ours.error is None
    assert "--onnx" in peer.note or "pip install" in peer.note
    assert found.batch == 1
    assert "random" in found.inputs


def test_implausible_outputs_are_refused(task: networks.Task) -> None:
    assert task.reference is not None
    with pytest.raises(VerificationError, match="shift-add: expected outputs"):
        networks.bench(replace(task, reference=[task.reference[0][:1]]), names=[], rounds=1)


def test_weights_are_counted_as_the_kernels_read_them(task: networks.Task, artifact) -> None:
    row = networks.bench(task, names=[], rounds=1).groups[0].rows[0]
    packed = artifact.report["costs"]["weight_bytes"]
    assert row.weight_bytes is not None and row.weight_bytes >= packed


def test_wrong_batches(artifact, images: np.ndarray) -> None:
    with pytest.raises(InputError, match="at least 1"):
        inputs.task(artifact, batch=0)
    with pytest.raises(DataError, match="at least 20 images"):
        inputs.task(artifact, data=Dataset(images), batch=20)


def test_random_inputs_are_calibrated_on_by_all(artifact, model) -> None:
    """The same numbers for us and for the peers."""
    task = inputs.task(artifact, batch=8)
    ours = inputs.random_calibration(model.graph)
    assert len(task.calibration) == 2
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in task.calibration]), ours["x"])
    assert task.feed is task.calibration[0]
