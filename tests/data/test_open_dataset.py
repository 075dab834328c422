from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvm_shiftadd.data import Preprocess, open_dataset, pictures, readers
from tvm_shiftadd.errors import DataError

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (3, 6, 5, 3), np.uint8)
LABELS = np.array([2, 0, 1])


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(
        struct.pack(f">{array.ndim + 1}I", 0x800 | array.ndim, *array.shape) + array.tobytes()
    )


def picture_zip(path: Path, table: str = "file,class_index\nb.png,2\na.png,0\nc.png,1\n") -> Path:
    members = {"a.png": png(IMAGES[1]), "b.png": png(IMAGES[0]), "c.png": png(IMAGES[2])}
    return write_zip(path, {**members, "labels.csv": table.encode()})


def check(path: Path) -> None:
    data = open_dataset(path)
    np.testing.assert_array_equal(
        next(data.batches()), IMAGES.transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, LABELS)


def test_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", images=IMAGES, labels=LABELS, names=np.array(["x"]))
    check(tmp_path / "d.npz")


def test_npz_of_features(tmp_path: Path) -> None:
    x = RNG.normal(size=(4, 7)).astype(np.float32)
    np.savez(tmp_path / "d.npz", features=np.asfortranarray(x))
    data = open_dataset(tmp_path / "d.npz")
    assert data.labels is None
    np.testing.assert_array_equal(next(data.batches()), x)


def test_idx_pair(tmp_path: Path) -> None:
    (tmp_path / "t-images-idx3-ubyte.gz").write_bytes(idx(IMAGES[..., 0]))
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(idx(LABELS.astype(np.uint8)))
    data = open_dataset(tmp_path / "t-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(next(data.batches())[:, 0], IMAGES[..., 0])
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels, LABELS)
    (tmp_path / "t-labels-idx1-ubyte.gz").unlink()
    assert open_dataset(tmp_path / "t-images-idx3-ubyte.gz").labels is None


def test_zip_in_the_order_of_its_table(tmp_path: Path) -> None:
    check(picture_zip(tmp_path / "d.zip"))
    assert [p.name for p in tmp_path.iterdir()] == ["d.zip"]


def test_zip_subset_decodes_only_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = open_dataset(picture_zip(tmp_path / "d.zip")).subset(skip=1, limit=1)
    read: list[str] = []
    real = pictures.read_member
    monkeypatch.setattr(
        pictures, "read_member", lambda a, name, *r: (read.append(name), real(a, name, *r))[1]
    )
    assert next(part.batches()).shape == (1, 3, 6, 5)
    assert read == ["a.png"]


def test_folder(tmp_path: Path) -> None:
    for name, image in zip("bac", IMAGES, strict=True):
        (tmp_path / f"{name}.png").write_bytes(png(image))
    assert open_dataset(tmp_path).labels is None
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / "labels.csv").write_text("file,class_index\nb.png,2\na.png,0\nc.png,1\n")
    check(tmp_path)


def test_grey_folder_has_one_channel(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(IMAGES[0, ..., 0]))
    assert next(open_dataset(tmp_path).batches()).shape == (1, 1, 6, 5)
    (tmp_path / "b.png").write_bytes(png(IMAGES[0]))
    assert next(open_dataset(tmp_path).batches()).shape == (2, 3, 6, 5)


def test_sizes_may_differ_where_they_are_resized(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(IMAGES[0]))
    (tmp_path / "b.png").write_bytes(png(IMAGES[0, :4]))
    with pytest.raises(DataError, match=r"5x4 but a\.png is 5x6"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, Preprocess(resize=8))
    assert next(data.batches()).shape == (2, 3, 8, 8)


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path / "d.npz", **arrays)  # type: ignore[arg-type]
    return path / "d.npz"


def member_npz(path: Path, header: str, body: bytes = b"") -> Path:
    text = header.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
    return write_zip(path / "d.npz", {"images.npy": content})


def raw(path: Path, name: str, content: bytes) -> Path:
    (path / name).write_bytes(content)
    return path / name


def flipped(path: Path, name: str, content: bytes) -> Path:
    changed = bytearray(content)
    changed[len(changed) // 3] ^= 0xFF
    return raw(path, name, bytes(changed))


def zip_bytes(path: Path) -> bytes:
    return picture_zip(path / "source.zip").read_bytes()


GIANT = "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 1, 1, 1)}\n"
BAD = {
    "missing": (lambda p: p / "none.npz", "does not exist"),
    "ending": (lambda p: raw(p, "d.parquet", b"x"), "unknown ending"),
    "not a zip": (lambda p: raw(p, "d.npz", b"hello"), "not a readable zip"),
    "empty file": (lambda p: raw(p, "d.zip", b""), "not a readable zip"),
    "no key": (lambda p: npz(p, x=IMAGES), "must hold images or features, but holds x"),
    "empty set": (lambda p: npz(p, images=IMAGES[:0]), "empty"),
    "float images": (lambda p: npz(p, images=IMAGES / 2), "images must be uint8"),
    "channels first": (lambda p: npz(p, images=IMAGES.transpose(0, 3, 1, 2)), "1 to 4 channels"),
    "label count": (lambda p: npz(p, images=IMAGES, labels=LABELS[:1]), "3 images but 1 labels"),
    "label type": (lambda p: npz(p, images=IMAGES, labels=LABELS / 2), "integer labels"),
    "objects": (lambda p: npz(p, images=np.array([{}], dtype=object)), "Python objects"),
    "claim": (lambda p: member_npz(p, GIANT), "claims"),
    "bad header": (lambda p: member_npz(p, "__import__('os').abort()\n"), "not a readable array"),
    "no array": (lambda p: write_zip(p / "d.npz", {"images.npy": b"abc"}), "not a readable array"),
    "not gzip": (lambda p: raw(p, "a.gz", b"hello"), "not a readable idx"),
    "short gzip": (lambda p: raw(p, "a.gz", idx(IMAGES[..., 0])[:-20]), "not a readable idx"),
    "idx rank": (lambda p: raw(p, "a.gz", idx(LABELS.astype(np.uint8))), "not a"),
    "idx claim": (
        lambda p: raw(p, "a.gz", gzip.compress(struct.pack(">4I", 0x803, *[2**32 - 1] * 3))),
        "claims",
    ),
    "idx short": (
        lambda p: raw(p, "a.gz", gzip.compress(struct.pack(">4I", 0x803, 9, 9, 9))),
        "claims",
    ),
    "no pictures": (lambda p: write_zip(p / "d.zip", {"readme": b""}), "holds no pictures"),
    "not a picture": (lambda p: write_zip(p / "d.zip", {"a.png": b"x"}), "not a readable picture"),
    "table column": (lambda p: picture_zip(p / "d.zip", "name,label\na.png,1\n"), "columns"),
    "table number": (lambda p: picture_zip(p / "d.zip", "file,class_index\na.png,x\n"), "columns"),
    "table file": (
        lambda p: picture_zip(p / "d.zip", "file,class_index\n../z.png,1\n"),
        r"names \.\./z\.png, which is not there",
    ),
    "empty folder": (lambda p: p, "holds no pictures"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_sentence(tmp_path: Path, case: str) -> None:
    make, words = BAD[case]
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.gz", "d.npz", "d.zip"])
def test_damaged_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    if name == "a.gz":
        content = idx(RNG.integers(0, 256, (9, 20, 20), np.uint8))
    elif name == "d.npz":
        content = npz(tmp_path / "source", images=IMAGES.repeat(40, 0)).read_bytes()
    else:
        content = zip_bytes(tmp_path / "source")
    with pytest.raises(DataError):
        data = open_dataset(flipped(tmp_path, name, content))
        list(data.batches())


def test_truncated_picture_is_found_when_it_is_decoded(tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    data = open_dataset(raw(tmp_path, "a.png", png(image)[:-4000]).parent)
    with pytest.raises(DataError, match=r"a\.png is damaged"):
        list(data.batches())


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_ARRAY_BYTES", 100)
    with pytest.raises(DataError, match="at most 100"):
        open_dataset(npz(tmp_path, images=IMAGES))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10)
    with pytest.raises(DataError, match="at most 10 pixels"):
        open_dataset(picture_zip(tmp_path / "d.zip"))
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match="at most 10"):
        open_dataset(picture_zip(tmp_path / "d.zip"))


HEADERS = {
    "negative": "(-1, -1)",
    "product": "(-2, -2, 1, 1)",
    "giant": "(0, 2**70, 1, 1)".replace("2**70", str(2**70)),
    "giant and empty": "(0, 4294967296, 4294967296)",
    "many axes": str((1,) * 40),
    "boolean": "(True, 16, 16, 3)",
    "text": "('a', 3)",
    "nested": "(" + "-" * 9000 + "1,)",
    "parentheses": "(" * 3000,
}


@pytest.mark.parametrize("name", [*HEADERS, "V0", "S0"])
@pytest.mark.parametrize("key", ["images", "x"])
def test_impossible_headers_are_one_sentence(tmp_path: Path, name: str, key: str) -> None:
    dtype = name if name in ("V0", "S0") else "|u1"
    shape = HEADERS.get(name, "(4, 16, 16, 3)")
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(768)
    path = write_zip(tmp_path / "d.npz", {f"{key}.npy": data})
    with pytest.raises(DataError, match=rf"d\.npz: {key} ") as caught:
        (open_dataset if key == "images" else readers.read_arrays)(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_all_arrays_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_ARRAY_BYTES", 1000)
    path = npz(tmp_path, a=np.zeros(600, np.uint8), b=np.zeros(600, np.uint8))
    with pytest.raises(DataError, match="at most 400 are accepted"):
        readers.read_arrays(path)


def test_a_member_packed_beyond_belief_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_SMALL", 10_000)
    (tmp_path / "zeros").mkdir()
    zeros = np.zeros((500, 16, 16, 1), np.uint8)
    with pytest.raises(DataError, match=r"images\.npy claims 128128 bytes packed into"):
        open_dataset(write_zip(tmp_path / "zeros" / "d.npz", {"images.npy": npy_bytes(zeros)}))
    np.savez(tmp_path / "plain.npz", images=zeros)
    assert len(open_dataset(tmp_path / "plain.npz")) == 500


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_sixteen_bit_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="8 bits"):
        open_dataset(tmp_path)


def test_all_arrays_of_a_file(tmp_path: Path) -> None:
    arrays = readers.read_arrays(npz(tmp_path, a=IMAGES, b=LABELS))
    assert list(arrays) == ["a", "b"]
    np.testing.assert_array_equal(arrays["b"], LABELS)
    with pytest.raises(DataError, match="holds no arrays"):
        readers.read_arrays(write_zip(tmp_path / "empty.npz", {}))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "shape", "classes"),
    [
        ("cifar10_test_A.npz", 5000, (3, 32, 32), 10),
        ("mnist_t10k-images-idx3-ubyte.gz", 10000, (1, 28, 28), 10),
        ("imagenet224_A.zip", 500, (3, 224, 224), 1000),
    ],
)
def test_real_data(
    data_dir: Path, name: str, count: int, shape: tuple[int, ...], classes: int
) -> None:
    data = open_dataset(data_dir / "data" / name)
    assert len(data) == count
    assert data.labels is not None
    assert data.labels.max() < classes
    assert next(data.batches(7)).shape == (7, *shape)
