"""Checkpoint files that are damaged, hostile or of another kind are refused in one sentence."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tvm_shiftadd.errors import DependencyError, ModelError
from tvm_shiftadd.importers import load
from tvm_shiftadd.importers._checkpoint_reader import read_checkpoint

torch = pytest.importorskip("torch")


def write(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def weights() -> dict[str, Any]:
    return {"conv1.weight": torch.arange(54.0).reshape(2, 3, 3, 3), "fc.bias": torch.ones(3)}


@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("legacy", [False, True])
def test_containers_and_prefixes(
    tmp_path: Path, container: str | None, prefix: str, legacy: bool
) -> None:
    state = {prefix + key: value for key, value in weights().items()}
    stored: Any = {"epoch": 1, container: state} if container else state
    path = write(tmp_path / "n.pth", stored, _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(path)
    assert set(read.tensors) == {"conv1.weight", "fc.bias"}
    assert np.array_equal(read.tensors["conv1.weight"].ravel(), np.arange(54))
    assert len(read.sha256) == 64


def test_types_become_float32_and_counters_are_left_out(tmp_path: Path) -> None:
    state = {
        "a": torch.ones(2, dtype=torch.float64),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.tensor(7),
    }
    tensors = read_checkpoint(write(tmp_path / "n.ckpt", state)).tensors
    assert set(tensors) == {"a", "b"}
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "n.safetensors"
    save_file({"module.a": np.ones((2, 3), np.float32), "module.n": np.ones(1, np.int64)}, path)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert set(read_checkpoint(path).tensors) == {"a"}
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"not a sound \.safetensors file"):
        read_checkpoint(path)


class Attack:
    """Pickled, it is a call of a function of its choice."""

    def __init__(self, command: Any) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return self.command


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, form: str) -> None:
    mark = tmp_path / "it_ran"
    attack = {"state_dict": weights(), "x": Attack((Path.touch, (mark,)))}
    path = tmp_path / "n.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Attack((Path.touch, (mark,)))))
    else:
        write(path, attack, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError, match=r"save model\.state_dict\(\)"):
        load(path)
    assert not mark.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "n.pt", torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"would run code of the file: save model\.state_dict"):
        load(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, legacy: bool, kept: float) -> None:
    path = write(tmp_path / "n.pth", weights(), _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ModelError, match=r"damaged|empty") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(1 << 20, 1 << 14)
    path = write(tmp_path / "n.pth", {"conv1.weight": huge})
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelError, match=r"'conv1\.weight' claims the shape \[1048576, 16384\]"):
        load(path)


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "n.pth", {"a": torch.zeros(1 << 20)})
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    path.write_bytes(packed.getvalue())
    with pytest.raises(ModelError, match="but would unpack to"):
        load(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    path = write(tmp_path / "n.pth", {"a": torch.tensor([1.0, bad])})
    with pytest.raises(ModelError, match=r"Tensor 'a' holds (NaN|infinite values)"):
        load(path)


def test_files_without_weights(tmp_path: Path) -> None:
    for value in ({"epoch": 3}, [1, 2], {}):
        with pytest.raises(ModelError, match="holds no weights"):
            load(write(tmp_path / "n.pth", value))
    with pytest.raises(ModelError, match="No model at"):
        load(tmp_path / "missing.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ModelError, match="is a directory"):
        load(tmp_path / "folder.pth")
    (tmp_path / "old.t7").write_bytes(b"1")
    with pytest.raises(ModelError, match="Lua Torch"):
        load(tmp_path / "old.t7")
    with pytest.raises(ModelError, match="exported program"):
        load(tmp_path / "n.pt2")


def test_a_key_of_no_known_layer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"key 'lstm\.weight_ih_l0' belongs to no known kind"):
        load(write(tmp_path / "n.pth", {"lstm.weight_ih_l0": torch.ones(2, 2)}))
    state = {"conv1.weight": torch.ones(2, 3, 3, 3), "conv1.gate": torch.ones(2)}
    with pytest.raises(ModelError, match=r"key 'conv1\.gate' is not known beside weight"):
        load(write(tmp_path / "n.pth", state))


def test_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "n.pth", weights())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyError, match=r"pip install 'tvm-shiftadd\[torch\]'"):
        load(path)
