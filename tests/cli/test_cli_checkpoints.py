"""The command line takes checkpoints where it takes models, and refuses hostile ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_shiftadd.cli import main

torch = pytest.importorskip("torch")
networks = pytest.importorskip("tests.importers.torch_networks")


def test_explain_names_the_layers_of_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = networks.settle(networks.ResNet([1, 1, 1], (4, 4, 4), networks.Adder))
    path = tmp_path / "n.pth.tar"
    torch.save({"epoch": 1, "state_dict": network.state_dict()}, path)
    assert main(["explain", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    names = {operator["name"] for operator in said["operators"]}
    assert {"conv1", "layer1.0.conv1", "layer3.0.conv2", "fc"} <= names


def test_a_pickle_with_code_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "n.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert main(["explain", str(path)]) == 2
    assert "save model.state_dict() instead" in " ".join(capsys.readouterr().err.split())
