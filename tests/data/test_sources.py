import gzip
import importlib.util
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from helpers.documents import ROOT
from untrain.data import encoded as encoded_rows
from untrain.data import samples, sources
from untrain.data.encoded import ParquetRows, open_parquet
from untrain.data.request import request_name
from untrain.data.sections import Forget
from untrain.data.sources import SOURCES, Arrays, Images, Source, balanced, channel_statistics, check, load
from untrain.errors import DataError, EmptySet, SettingError, UnknownName
from untrain.folders import is_name

CLASSES = ("cat", "dog", "owl")


def picture(seed: int, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Image.Image:
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes; four images of each to train on, two to test."""
    for p, (part, count) in enumerate((("train", 4), ("test", 2))):
        for c, name in enumerate(CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / part / name / f"{i}.png").write_bytes(encoded(picture(100 * p + 10 * c + i)))
    return tmp_path


def write_parquet(path: Path, label: str, names: list[str] | None, values: list[Any], **columns: Any) -> None:
    """A file as the datasets library writes it: images as structs, class names in the metadata."""
    images = [{"bytes": encoded(picture(i)), "path": f"{i}.png"} for i in range(len(values))]
    table = pyarrow.table({"img": images, label: values, **columns})
    features: dict[str, Any] = {"img": {"_type": "Image"}}
    features[label] = {"_type": "Value"} if names is None else {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)


def expected(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture(seed))).permute(2, 0, 1) for seed in seeds])


def check_contract(source: Source) -> None:
    """What every source promises: samples and gathered batches agree, one by one."""
    assert isinstance(source, Source)
    indices = torch.tensor([len(source) - 1, 0, 0])
    batch = source.batch(indices)
    for row, i in enumerate(indices.tolist()):
        sample = source[i]
        assert torch.equal(sample["input"], batch["input"][row])
        assert tuple(sample["input"].shape) == source.shape
        assert sample["label"].dtype == sample["index"].dtype == torch.int64
        assert int(sample["label"]) == int(batch["label"][row]) == int(source.labels[i])
        assert int(sample["index"]) == int(batch["index"][row]) == i
    assert int(source[-1]["index"]) == len(source) - 1
    with pytest.raises(IndexError):
        source[len(source)]
    chosen = source.select(torch.tensor([2, 1]))
    assert len(chosen) == 2 and int(chosen[0]["index"]) == 0
    assert torch.equal(chosen[0]["input"], source[2]["input"])
    assert chosen.fingerprint() != source.fingerprint() == pickle.loads(pickle.dumps(source)).fingerprint()


# ── embedded sets ──


def test_digits_are_the_same_split_at_every_call() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == (1, 8, 8) and train.in_memory
    assert not set(train.ids or ()) & set(test.ids or ())
    assert int(train.batch(torch.arange(len(train)))["input"].max()) == 255
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert float((shares - 0.2).abs().max()) < 0.01  # stratified: a class of 180 cannot be nearer than 1/360
    check_contract(train)


def test_embedded_fashion_is_balanced() -> None:
    train, test = load("fashion", "train"), load("fashion", "test")
    assert train.labels.bincount().tolist() == [700] * 10
    assert test.labels.bincount().tolist() == [300] * 10
    assert train.shape == (1, 28, 28) and train.classes[9] == "Ankle boot"
    assert not set(train.ids or ()) & set(test.ids or ())
    check_contract(test)


def write_idx(folder: Path, part: str, count: int, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(part))
    images, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        data = header + array.tobytes()
        path = folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    return images, labels


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_from_idx_files(tmp_path: Path, packed: bool) -> None:
    images, labels = write_idx(tmp_path, "t10k", 30, packed)
    source = load("fashion", "test", path=tmp_path)
    assert torch.equal(source.batch(torch.arange(30))["input"], torch.from_numpy(images)[:, None])
    assert source.labels.tolist() == labels.tolist()
    assert source.ids is not None and source.ids[7] == "test-00007"
    with pytest.raises(DataError, match="neither train-images-idx3-ubyte nor"):
        load("fashion", "train", path=tmp_path)


def test_damaged_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 30, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for data, message in ((whole[:-5], "damaged"), (b"\x00\x00\x0d\x03" + whole[4:], "not an idx file")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            load("fashion", "train", path=tmp_path)
        assert str(path) in str(caught.value)
    path.unlink()
    Path(f"{path}.gz").write_bytes(gzip.compress(whole)[:500])
    with pytest.raises(DataError, match="cannot be read"):
        load("fashion", "train", path=tmp_path)


def test_the_script_that_makes_the_subset(tmp_path: Path) -> None:
    script = ROOT / "recipes" / "make_fashion_subset.py"
    spec = importlib.util.spec_from_file_location("make_fashion_subset", script)
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    images, labels = write_idx(tmp_path, "train", 200, packed=True)
    write_idx(tmp_path, "t10k", 100, packed=True)
    chosen_images, chosen_labels, chosen = maker.subset(tmp_path, "train", 7)
    assert np.bincount(chosen_labels).tolist() == [7] * 10
    assert (np.diff(chosen.astype(int)) > 0).all()
    assert (chosen_images == images[chosen]).all() and (chosen_labels == labels[chosen]).all()
    counts = {"train": 7, "t10k": 3}
    assert maker.packed(tmp_path, counts) == maker.packed(tmp_path, counts)
    assert maker.EMBEDDED.exists() and maker.PER_CLASS == {"train": 700, "t10k": 300}


# ── arrays ──


def test_arrays_from_python() -> None:
    source = Arrays(torch.rand(5, 3, 4, 4), [0, 2, 1, 1, 0], CLASSES)
    check_contract(source)
    assert Arrays(np.zeros((2, 1, 3, 3), np.uint8), np.array([0, 3])).classes == ("0", "1", "2", "3")
    assert source.to("cpu") is source
    tokens = Arrays(torch.arange(8).view(2, 4), [0, 1])
    assert tokens[1]["input"].tolist() == [4, 5, 6, 7], "whole numbers stay what they are"
    moved = source.to("meta")
    assert moved is source.to("meta") and moved.device.type == "meta" and moved.labels.device.type == "cpu"


@pytest.mark.parametrize(
    ("input", "labels", "message"),
    [
        (torch.full((3, 1, 2, 2), float("nan")), [0, 1, 0], "NaN or infinity .first: sample 0"),
        (torch.tensor([[[[0.0]]], [[[float("inf")]]]]), [0, 1], "first: sample 1"),
        (torch.zeros(2, 1, 2, 2), [0, -1], "sample 1 has the label -1"),
        (torch.zeros(2, 1, 2, 2), [0, 3], "0 to 2, as there are 3 classes"),
        (torch.zeros(2, 1, 2, 2), [0.0, 1.0], "must be integers"),
        (torch.zeros(2, 1, 2, 2), [0], "one class number per sample"),
        (torch.zeros(2, 1, 2, 2), [[0], [1]], "one class number per sample"),
        (["a", "b"], [0, 1], "'input' cannot become a tensor"),
        (torch.zeros(2), [0, 1], "one row a sample"),
        (torch.zeros(0, 1, 2, 2), [], "no sample"),
    ],
)
def test_arrays_that_cannot_be_used(input: Any, labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Arrays(input, labels, CLASSES)


def test_ids_must_be_unique() -> None:
    with pytest.raises(DataError, match="unique name for each of the 2"):
        Arrays(torch.zeros(2, 1, 2, 2), [0, 1], ids=["a", "a"])


def test_npz_in_its_layouts(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    x, y = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3)), np.arange(20) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x[:7], y_test=y[:7] * 2, classes=np.array(["a", "b", "c", "d", "e"]))
    train, test = load("arrays", "train", path=path), load("arrays", "test", path=path)
    assert train.shape == (3, 6, 5) and len(test) == 7 and train.classes == test.classes == tuple("abcde")
    assert torch.equal(train[3]["input"], torch.from_numpy(x[3]).permute(2, 0, 1).to(torch.uint8))
    np.savez(path, x=np.random.rand(20, 6, 6), y=y)
    source = load("arrays", "train", path=path)
    assert source.shape == (1, 6, 6) and source[0]["input"].dtype == torch.float32


def test_a_test_part_is_cut_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(40, dtype=np.uint8).reshape(40, 1, 1), y=np.arange(40) % 4)
    with pytest.raises(DataError, match="no test part: add one, or give test_fraction"):
        load("arrays", "test", path=path)
    parts = [
        load("arrays", part, path=path, test_fraction=0.2, seed=seed) for seed, part in enumerate(("train", "test"))
    ]
    assert [part.labels.bincount().tolist() for part in parts] == [[8] * 4, [2] * 4]
    values = [set(part.batch(torch.arange(len(part)))["input"].flatten().tolist()) for part in parts]
    assert values[0] | values[1] == set(range(40)) and not values[0] & values[1]
    np.savez(path, x_train=np.zeros((2, 1, 1)), y_train=[0, 1], x_test=np.zeros((2, 1, 1)), y_test=[0, 1])
    with pytest.raises(SettingError, match="has its own test part"):
        load("arrays", "train", path=path, test_fraction=0.2)


LABELS = np.array(["dog", "cat"] * 3)


@pytest.mark.parametrize("bytes_", [False, True], ids=["strings", "bytes"])
def test_npz_with_names_as_labels(tmp_path: Path, bytes_: bool) -> None:
    path, x = tmp_path / "data.npz", np.zeros((6, 4, 4, 3), np.uint8)
    kind = "S" if bytes_ else "U"
    np.savez(path, x_train=x, y_train=LABELS.astype(kind), x_test=x[:2], y_test=np.array(["cat", "cat"], kind))
    train, test = load("arrays", "train", path=path), load("arrays", "test", path=path)
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [1, 0] * 3 and test.labels.tolist() == [0, 0]
    np.savez(path, x=x, y=LABELS.astype(kind), classes=np.array(["dog", "owl", "cat"], kind))
    source = load("arrays", "train", path=path)
    assert source.classes == ("dog", "owl", "cat") and source.labels.tolist() == [0, 2] * 3
    np.savez(path, x=x, y=np.array([0, 1] * 3), classes=np.array(["dog", "cat"], kind))
    assert load("arrays", "train", path=path).classes == ("dog", "cat")
    np.savez(path, x=x[:3], y=np.array(["10", "9", "0"], kind))
    assert load("arrays", "train", path=path).classes == ("0", "9", "10")


def test_npz_with_names_that_no_class_has(tmp_path: Path) -> None:
    path, x = tmp_path / "data.npz", np.zeros((6, 4, 4, 3), np.uint8)
    np.savez(path, x=x, y=LABELS, classes=["dog", "owl"])
    with pytest.raises(UnknownName, match=r"data\.npz, y: unknown class 'cat'"):
        load("arrays", "train", path=path)
    np.savez(path, x_train=x, y_train=LABELS, x_test=x, y_test=np.array(["bee"] * 6))
    with pytest.raises(UnknownName, match="y_test: unknown class 'bee'"):
        load("arrays", "train", path=path)
    np.savez(path, x_train=x, y_train=LABELS, x_test=x, y_test=np.zeros(6, int))
    with pytest.raises(DataError, match="labels must be integers"):
        load("arrays", "train", path=path)
    np.savez(path, x=x, y=np.array([b"\xff"] * 6))
    with pytest.raises(DataError, match="no text in UTF-8"):
        load("arrays", "train", path=path)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"images": np.zeros((2, 1, 1))}, "must hold x_train and y_train, or x and y; it holds images"),
        ({"x_train": np.zeros((2, 1, 1))}, "must hold x_train and y_train"),
        ({"x": np.zeros((2, 1, 1)), "y": np.array([0.0, 1.0])}, "labels must be integers"),
        ({"x": np.zeros((2, 1, 1)), "y": np.array([0, -1])}, "sample 1 has the label -1"),
        ({"x": np.full((2, 1, 1), np.nan), "y": np.array([0, 1])}, "NaN or infinity"),
        ({"x": np.full((2, 1, 1), 300), "y": np.array([0, 1])}, "integers from 0 to 255"),
        ({"x": np.zeros((2, 5)), "y": np.array([0, 1])}, "they are .2, 5."),
        ({"x": np.zeros((0, 4, 4)), "y": np.zeros(0, int)}, "no sample"),
        ({"x": np.array([{}, {}]), "y": np.array([0, 1])}, "without Python objects"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, stored: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **stored)
    with pytest.raises(DataError, match=message) as caught:
        load("arrays", "train", path=path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    for data in (b"", b"text", b"PK\x03\x04 cut off"):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as an npz file"):
            load("arrays", "train", path=path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="holds one array"):
        load("arrays", "train", path=path)


# ── image folders ──


def test_folder_is_decoded_once_where_it_is_small(folder: Path) -> None:
    train, test = load("folder", "train", path=folder), load("folder", "test", path=folder)
    assert isinstance(train, Arrays) and train.classes == CLASSES and train.shape == (3, 12, 12)
    assert torch.equal(train.input[4:6], expected(10, 11))
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert train.ids is not None and train.ids[5] == "train/dog/1.png"
    assert test.ids is not None and not set(train.ids) & set(test.ids)
    check_contract(train)


def test_folder_is_decoded_on_access_where_it_is_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load("folder", "train", path=folder)
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 12 * 12 * 12 * 3 - 1)
    source = load("folder", "train", path=folder)
    assert isinstance(source, Images) and not source.in_memory and source.to("meta") is source
    check_contract(source)
    everything = torch.arange(12)
    assert torch.equal(source.batch(everything)["input"], whole.batch(everything)["input"])
    rows = next(iter(DataLoader(source, batch_size=12, num_workers=1)))
    assert torch.equal(rows["input"], whole.batch(everything)["input"]) and rows["index"].tolist() == list(range(12))


def test_fingerprint_of_a_folder_sees_a_changed_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 0)
    before = load("folder", "train", path=folder).fingerprint()
    assert load("folder", "train", path=folder).fingerprint() == before
    assert load("folder", "train", path=folder, grayscale=True).fingerprint() != before
    (folder / "train" / "owl" / "2.png").write_bytes(encoded(picture(999)))
    assert load("folder", "train", path=folder).fingerprint() != before


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_interpolated_as_asked(tmp_path: Path, interpolation: Any) -> None:
    (tmp_path / "a").mkdir()
    drawn = np.random.default_rng(0).integers(80, 176, (8, 8, 3), np.uint8)
    Image.fromarray(drawn).save(tmp_path / "a" / "1.png")
    source = load("folder", "train", path=tmp_path, image_size=21, interpolation=interpolation)
    theirs = Image.fromarray(drawn).resize((21, 21), Image.Resampling[interpolation.upper()])
    assert torch.equal(source[0]["input"], torch.from_numpy(np.array(theirs)).permute(2, 0, 1))
    kept = source.select(torch.tensor([0]))
    assert torch.equal(kept[0]["input"], source[0]["input"])
    plain = load("folder", "train", path=tmp_path, image_size=21)
    assert (plain.fingerprint() == source.fingerprint()) is (interpolation == "bilinear")
    x = torch.from_numpy(drawn).permute(2, 0, 1)[None]
    np.savez(tmp_path / "a.npz", x_train=x.numpy(), y_train=[0], x_test=x.numpy(), y_test=[0])
    array = load("arrays", "train", path=tmp_path / "a.npz", image_size=21, interpolation=interpolation)
    assert (
        array[0]["input"].int() - source[0]["input"].int()
    ).abs().max() <= 1  # each rounds in its own way; none leaves [0, 255]


def test_images_are_resized_and_cut(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200  # the centre square, bright; the sides, dark, are cut off
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "a" / "high.png")
    source = load("folder", "train", path=tmp_path, image_size=8)
    assert source.shape == (3, 8, 8) and int(source.batch(torch.arange(2))["input"].min()) == 200
    assert load("folder", "train", path=tmp_path, image_size=4, grayscale=True).shape == (1, 4, 4)
    with pytest.raises(DataError, match=r"wide.png is 16×8 pixels, .*high.png is 8×16: .* need image_size"):
        load("folder", "train", path=tmp_path)


def test_one_corrupt_image_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = folder / "train" / "dog" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be decoded as an image") as caught:
        load("folder", "train", path=folder)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 0)
    source = load("folder", "train", path=folder)
    for act in (lambda: source[6], lambda: check(source), lambda: list(DataLoader(source))):
        with pytest.raises(DataError, match=r"dog/2\.png"):
            act()
    (folder / "train" / "owl" / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"2 images cannot be used:(.|\n)*dog/2\.png(.|\n)*owl/0\.png"):
        check(source)
    (folder / "train" / "owl" / "1.png").unlink()
    with pytest.raises(DataError, match=r"owl/1\.png does not exist"):
        source[9]
    check(load("folder", "test", path=folder))


def test_images_that_would_be_decoded_dangerously(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "deep.png").write_bytes(encoded(picture(0, (40, 40))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"deep\.png is too large to be decoded safely"):
        load("folder", "train", path=tmp_path)


def test_palettes_and_transparency_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture(0, mode="RGBA").save(tmp_path / "a" / "0.png")
    palette = Image.new("P", (12, 12), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "a" / "1.png", transparency=b"\x00\xff")
    source = load("folder", "train", path=tmp_path)
    assert source[1]["input"][:, 0, 0].tolist() == [10, 20, 30]


def test_what_is_hidden_is_no_sample_and_that_is_said(folder: Path) -> None:
    train, image = folder / "train", encoded(picture(7))
    hidden = (".Trash-1000/files", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "old~", "deep/.cache")
    for name in (*hidden, "deep"):
        (train / "cat" / name).mkdir(parents=True, exist_ok=True)
        (train / "cat" / name / "x.png").write_bytes(image)
    for name in (".hidden.png", "._0.png"):
        (train / "cat" / name).write_bytes(image)
    for name in ("notes.txt", "movie.MOV", ".DS_Store", "Thumbs.db", "0.png~"):
        (train / "cat" / name).write_text("x")
    (train / "beside.png").write_bytes(image)
    for name in (".ipynb_checkpoints", "lost+found"):
        (train / name).mkdir()
        (train / name / "x.png").write_bytes(image)
    with pytest.warns(UserWarning, match="left out of the samples") as said:
        source = load("folder", "train", path=folder)
    assert source.classes == CLASSES and len(source) == 13
    assert source.ids is not None and not [i for i in source.ids if "/." in i or "~" in i or "@" in i or "beside" in i]
    (text,) = (str(warning.message) for warning in said)
    assert "10 hidden" in text and "2 of another ending" in text and "1 beside" in text
    (folder.parent / ".hidden").symlink_to(folder)
    with pytest.warns(UserWarning, match="left out"):
        assert len(load("folder", "train", path=folder.parent / ".hidden")) == 13, "what is handed over may be hidden"


def test_a_class_of_hidden_images_alone_is_refused(folder: Path) -> None:
    (folder / "train" / "bee").mkdir()
    (folder / "train" / "bee" / ".0.png").write_bytes(encoded(picture(0)))
    with pytest.raises(DataError, match="bee holds no image"):
        load("folder", "train", path=folder)


def test_hidden_parquet_files_are_not_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", "label", ["a", "b"], [0, 1])
    write_parquet(tmp_path / ".cache" / "train-0.parquet", "label", ["a", "b"], [0, 1])
    assert len(load("parquet", "train", path=tmp_path)) == 2


def test_folders_that_cannot_be_used(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(EmptySet, match="holds no folder"):
        load("folder", "train", path=empty)
    with pytest.raises(DataError, match="does not exist"):
        load("folder", "train", path=empty / "missing")
    with pytest.raises(DataError, match="is a file"):
        load("folder", "train", path=folder / "train" / "cat" / "0.png")
    (folder / "test" / "fox").mkdir()
    with pytest.raises(UnknownName, match=r"unknown class 'fox'.*Known: cat, dog, owl"):
        load("folder", "test", path=folder)
    (folder / "train" / "bee").mkdir()
    with pytest.raises(DataError, match="bee holds no image"):
        load("folder", "train", path=folder)


def test_a_class_that_is_not_tested_keeps_the_numbers(folder: Path) -> None:
    for path in (folder / "test" / "cat").iterdir():
        path.unlink()
    (folder / "test" / "cat").rmdir()
    assert load("folder", "test", path=folder).labels.unique().tolist() == [1, 2]


# ── tables ──


def test_parquet_in_the_layout_of_the_hub(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", "label", list(CLASSES), [0, 1, 2, 1, 0])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", "label", list(CLASSES), [2, 2])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", "label", list(CLASSES), [1])
    source = load("parquet", "train", path=tmp_path)
    assert isinstance(source, Arrays) and source.classes == CLASSES and source.labels.tolist() == [0, 1, 2, 1, 0, 2, 2]
    assert torch.equal(source.input, expected(0, 1, 2, 3, 4, 0, 1))
    assert source.ids is None  # two files hold an image of the same path
    assert load("parquet", "test", path=tmp_path).ids == ("test/0.png",)
    check_contract(source)


def test_parquet_is_decoded_on_access_where_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        write_parquet(tmp_path / f"train-{number}.parquet", "labels", None, [0, 1, 3, 0, 1], id=list(range(5)))
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 0)
    source = load("parquet", "train", path=tmp_path)
    assert isinstance(source, Images) and source.classes == ("0", "1", "2", "3")
    check_contract(source)
    order = torch.tensor([9, 0, 3, 5, 8, 1])
    assert torch.equal(source.batch(order)["input"], expected(4, 0, 3, 0, 3, 1))
    assert source.name(8) == f"row 3 of {tmp_path / 'train-1.parquet'}"


@pytest.mark.parametrize("kept", [0, 10**9])
def test_rows_that_are_read_together_open_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    opened: list[str] = []

    def opening(file: Path) -> Any:
        opened.append(file.name)
        return open_parquet(file)

    monkeypatch.setattr(encoded_rows, "open_parquet", opening)
    monkeypatch.setattr(encoded_rows, "KEPT_BYTES", kept)
    files = tuple(tmp_path / f"train-{i}.parquet" for i in range(3))
    for file in files:
        write_parquet(file, "label", None, [0] * 10)  # in groups of 3
    rows = ParquetRows(files, "img")
    order = [17, 3, 29, 3, 11, 19, 0, 9, 12, 14]
    opened.clear()
    assert rows.read(order) == [encoded(picture(i % 10)) for i in order]
    assert opened == [file.name for file in files]
    assert rows.read([14]) == [encoded(picture(4))] and rows.read([29]) == [encoded(picture(9))]
    assert len(opened) == (len(files) if kept else len(files) + 2)
    assert rows.name(14) == f"row 4 of {files[1]}"


def test_label_columns_of_strings_and_of_well_known_sets(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", "fine_label", list(CLASSES), [0, 1, 2], coarse_label=["b", "a", "b"])
    write_parquet(tmp_path / "validation.parquet", "fine_label", list(CLASSES), [2], coarse_label=["b"])
    assert load("cifar100", "train", path=tmp_path).classes == CLASSES
    coarse = load("cifar100", "test", path=tmp_path, label_column="coarse_label")
    assert coarse.classes == ("a", "b") and coarse.labels.tolist() == [1]
    write_parquet(tmp_path / "validation.parquet", "fine_label", None, [2], coarse_label=["z"])
    with pytest.raises(UnknownName, match=r"unknown class 'z'.*Known: a, b"):
        load("cifar100", "test", path=tmp_path, label_column="coarse_label")


def test_an_unlabelled_test_part_is_not_taken_for_imagenet(tmp_path: Path) -> None:
    for part, labels in (("train", [0, 1]), ("validation", [1]), ("test", [-1])):
        write_parquet(tmp_path / "data" / f"{part}-00000-of-00001.parquet", "label", ["a", "b"], labels)
    assert load("imagenet-1k", "test", path=tmp_path).labels.tolist() == [1]
    with pytest.raises(DataError, match="label -1"):
        load("parquet", "test", path=tmp_path)


def test_images_that_a_table_only_points_to(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(5)))
    for value, message in (("a.png", None), ("b.png", r"b\.png cannot be read"), (None, "holds no image")):
        table = pyarrow.table({"image": [{"bytes": None, "path": value}], "label": [0]})
        pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
        if message is None:
            assert torch.equal(load("parquet", "train", path=tmp_path)[0]["input"], expected(5)[0])
        else:
            with pytest.raises(DataError, match=message):
                load("parquet", "train", path=tmp_path)


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no train-\*\.parquet"):
        load("cifar10", "train", path=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load("cifar10", "train", path=tmp_path / "missing")
    path = tmp_path / "train-0.parquet"
    write_parquet(path, "label", list(CLASSES), [0, 1, 7])
    with pytest.raises(DataError, match="0 to 2, as there are 3 classes"):
        load("parquet", "train", path=tmp_path)
    with pytest.raises(DataError, match="no column 'photo': give image_column, one of img, label"):
        load("parquet", "train", path=tmp_path, image_column="photo")
    with pytest.raises(DataError, match="is a file"):
        load("parquet", "train", path=path)
    write_parquet(path, "label", None, [0, None, 1])
    with pytest.raises(DataError, match="1 rows without a 'label'"):
        load("parquet", "train", path=tmp_path)
    write_parquet(path, "label", None, [0.5, 1.0])
    with pytest.raises(DataError, match="integers or strings"):
        load("parquet", "train", path=tmp_path)
    for other in ("a", "b"):
        write_parquet(tmp_path / "several" / other / "train-0.parquet", "label", None, [0, 1])
    with pytest.raises(DataError, match="several sets: point path at one of"):
        load("parquet", "train", path=tmp_path / "several")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load("parquet", "train", path=tmp_path)


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = [{"bytes": encoded(picture(i)), "path": None} for i in range(4)]
    table = datasets.Dataset.from_dict({"img": rows, "label": [0, 1, 2, 1]}, features=features)
    asked: list[tuple[str, str | None, str | None]] = []

    def load_dataset(name: str, config: str | None, split: str | None, trust_remote_code: bool) -> Any:
        assert not trust_remote_code
        asked.append((name, config, split))
        return table if split else datasets.DatasetDict(train=table, valid=table.select([3, 2]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = load("cifar10", "test")
    assert asked == [("uoft-cs/cifar10", None, "test")]
    assert source.classes == CLASSES and torch.equal(source.batch(torch.arange(4))["input"], expected(0, 1, 2, 3))
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 0)
    lazy = load("hub:someone/birds", "test", config="small")
    assert asked[-1] == ("someone/birds", "small", None)
    assert torch.equal(lazy.batch(torch.arange(2))["input"], expected(3, 2)) and lazy.labels.tolist() == [1, 2]
    check_contract(load("hub:someone/birds", "train"))
    load("svhn", "train")
    assert asked[-1] == ("ufldl-stanford/svhn", "cropped_digits", "train")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*arguments: Any, **settings: Any) -> None:
        raise ConnectionError("no route to host.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"could not be loaded: ConnectionError: no route to host.*give path="):
        load("tiny-imagenet", "train")
    with pytest.raises(SettingError, match="hub:OWNER/NAME"):
        load("hub", "train")


# ── what holds for all ──


def test_unknown_names_and_settings() -> None:
    with pytest.raises(UnknownName, match="'fasion'.*'fashion'.*arrays, captions, cifar10"):
        load("fasion", "train")
    with pytest.raises(UnknownName, match="unknown part 'val'"):
        load("digits", "val")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="'folder' needs path="):
        load("folder", "train")
    with pytest.raises(SettingError, match="path means nothing for the data source 'digits'"):
        load("digits", "train", path="somewhere")
    with pytest.raises(SettingError, match=r"grayscale means nothing .* 'arrays': it takes path, test_f"):
        load("arrays", "train", path="somewhere", grayscale=True)
    for setting in ({"limit": 0}, {"image_size": 0}, {"test_fraction": 1.0}):
        with pytest.raises(SettingError, match=next(iter(setting))):
            load("digits", "train", **setting)  # type: ignore[arg-type]


def test_every_source_describes_itself() -> None:
    assert {"digits", "fashion", "arrays", "folder", "parquet", "hub", "cifar10", "svhn", "stl10"} <= set(SOURCES)
    assert all(kind.description and "\n" not in kind.description for kind in SOURCES.values())


def test_limit_is_seeded_and_balanced() -> None:
    first, again, other = (load("digits", "train", limit=105, seed=seed) for seed in (0, 0, 1))
    assert sorted(first.labels.bincount().tolist()) == [10] * 5 + [11] * 5
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.ids is not None and set(first.ids) <= set(load("digits", "train").ids or ())
    assert int(first[104]["index"]) == 104
    assert len(load("digits", "test", limit=5000)) == 360


def test_balanced_takes_what_rare_classes_have() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    chosen = balanced(labels, 23, torch.Generator().manual_seed(0))
    assert labels[chosen].bincount().tolist() == [10, 3, 10]
    assert torch.equal(chosen, chosen.unique())


def test_arrays_are_resized() -> None:
    plain, large = load("digits", "test"), load("digits", "test", image_size=16)
    assert large.shape == (1, 16, 16) and large[0]["input"].dtype == torch.uint8 and large.ids == plain.ids
    assert load("digits", "test", image_size=8).fingerprint() == plain.fingerprint()
    # Interpolation keeps the mean brightness, up to rounding and the border.
    means = [source.batch(torch.arange(360))["input"].float().mean() for source in (plain, large)]
    assert abs(float(means[0] - means[1])) < 4


def test_arrays_that_are_not_square_are_not_resized(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 4)), y=[0, 1])
    with pytest.raises(SettingError, match="needs square images; these are 4×3"):
        load("arrays", "train", path=tmp_path / "a.npz", image_size=8)


def test_channel_statistics_against_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1203, 3, 5, 4), dtype=np.uint8)
    pixels[:, 2] = 51
    mean, deviation = channel_statistics(Arrays(pixels, np.zeros(1203, int)))
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation[:2], (pixels[:, :2] / 255).std((0, 2, 3)), rtol=1e-9)
    assert deviation[2] == 1.0
    floats = Arrays(torch.from_numpy(pixels / 255), np.zeros(1203, int))
    np.testing.assert_allclose(channel_statistics(floats)[0], mean, rtol=1e-12)


def test_channel_statistics_look_at_ten_thousand_samples() -> None:
    source = Arrays(torch.arange(10_500.0).reshape(-1, 1, 1, 1) / 10_500, torch.zeros(10_500, dtype=torch.int64))
    seen: list[int] = []
    gather = source.batch
    source.batch = lambda indices: seen.extend(indices.tolist()) or gather(indices)  # type: ignore[method-assign,func-returns-value]
    mean, _ = channel_statistics(source)
    assert len(set(seen)) == 10_000 and abs(mean[0] - 0.5) < 0.01


def test_check_looks_under_views(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from untrain.data.splits import Subset

    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 0)
    source = load("folder", "train", path=folder)
    (folder / "train" / "dog" / "2.png").write_text("no image")
    check(Subset(source, [0, 1, 7]))
    with pytest.raises(DataError, match=r"dog/2\.png"):
        check(Subset(source, [0, 6]))
    sources.check(load("digits", "test"))


def test_a_request_for_many_classes_has_a_name_that_a_folder_takes() -> None:
    few, many = Forget(classes=["a b", 3]), [Forget(classes=[f"class {i}" for i in range(n)]) for n in (50, 60)]
    assert request_name(few) == "a-b-3"
    names = [request_name(each) for each in many]
    assert len({*names}) == 2 and all(is_name(name) and len(name) <= 100 for name in names)
    assert is_name(request_name(Forget(ids=f"{'x' * 240}.csv")))


# ── many files, decoded when they are needed ──


@pytest.fixture
def many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, of whose images more are there than are decoded first."""
    monkeypatch.setattr(samples, "DECODED_FIRST", 5)
    return folder


def test_of_many_files_each_is_decoded_once_when_it_is_needed(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = Images.decode
    monkeypatch.setattr(Images, "decode", lambda self, i, data: decoded.append(i) or decode(self, i, data))  # type: ignore[func-returns-value]
    source = load("folder", "train", path=many)
    assert isinstance(source, Images) and source.keeps and not source.in_memory and not decoded
    for _ in range(2):
        batch = source.batch(torch.tensor([5, 0, 5]))
        assert torch.equal(batch["input"], expected(11, 0, 11)) and batch["label"].tolist() == [1, 0, 1]
        assert sorted(decoded) == [0, 5]
    view = source.select(torch.tensor([6, 5]))
    assert torch.equal(view.batch(torch.arange(2))["input"], expected(12, 11)) and len(decoded) == 3
    check_contract(source)
    assert load("folder", "test", path=many).keeps


def test_many_files_give_what_few_give(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, (kind, mode) in enumerate((("JPEG", "RGB"), ("GIF", "L"), ("PNG", "RGBA"), ("TIFF", "RGB"))):
        (many / "train" / "cat" / f"{i}.png").write_bytes(encoded(picture(i, (20, 12), mode), kind))
    later = load("folder", "train", path=many, image_size=8, limit=11, seed=3)
    monkeypatch.setattr(samples, "DECODED_FIRST", 100)
    first = load("folder", "train", path=many, image_size=8, limit=11, seed=3)
    assert isinstance(later, Images) and isinstance(first, Arrays) and later.ids == first.ids
    assert torch.equal(later.batch(torch.arange(11))["input"], first.input) and torch.equal(later.labels, first.labels)
    assert channel_statistics(later) == channel_statistics(first)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "a bit", "size"])
def test_of_many_files_damaged_ones_are_named_at_once(many: Path, damage: str) -> None:
    bad = many / "train" / "dog" / "2.png"
    whole = bytearray(bad.read_bytes())
    whole[len(whole) // 2] ^= 16
    size = encoded(picture(0, (12, 13)))
    content = {"cut": whole[:60], "empty": b"", "text": b"no image", "a bit": bytes(whole), "size": size}[damage]
    bad.write_bytes(content)
    with pytest.raises(DataError, match=r"dog/2\.png"):
        load("folder", "train", path=many)


def test_of_many_jpegs_one_that_is_damaged_inside_is_named_when_it_is_drawn(many: Path) -> None:
    for path in sorted((many / "train").rglob("*.png")):
        path.write_bytes(encoded(picture(1, (64, 64)), "JPEG"))
    bad = many / "train" / "owl" / "3.png"
    whole = bad.read_bytes()
    tables = whole.index(b"\xff\xc4") + 5
    bad.write_bytes(whole[:tables] + 16 * b"\xff" + whole[tables + 16 :])  # its size and its end are there
    source = load("folder", "train", path=many)
    source.batch(torch.arange(11))
    with pytest.raises(DataError, match=r"owl/3\.png cannot be decoded as an image"):
        source[11]
    bad.write_bytes(whole[:-2])  # its end is not
    with pytest.raises(DataError, match=r"owl/3\.png"):
        load("folder", "train", path=many)


def test_many_files_are_hashed_once(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from untrain.data import encoded as module
    from untrain.data.kept import sample_digests

    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 0)
    reading = load("folder", "train", path=many)
    expected_hash, digests = reading.fingerprint(), sample_digests(reading, torch.arange(12))
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 2 << 30)
    monkeypatch.setattr(module, "hash_file", lambda path: pytest.fail(f"{path} is read again"))
    source = load("folder", "train", path=many)
    assert source.fingerprint() == expected_hash and sample_digests(source, torch.arange(12)) == digests
    assert pickle.loads(pickle.dumps(source)).fingerprint() == expected_hash
