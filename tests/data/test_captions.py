"""Captioned images: every layout gives the same source, attributes come from the same table, and what is wrong is named
by file and line.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from untrain.data import samples
from untrain.data.captions import read_attributes
from untrain.data.request import load_data
from untrain.data.sections import Data
from untrain.data.sources import SOURCES, check, load
from untrain.errors import DataError, EmptySet, SettingError

TEXTS = ("a red circle", "a blue square", "a red square")
MEANINGS = {
    "a red circle": {"shape": "circle", "colour": "red"},
    "a blue square": {"shape": "square", "colour": "blue"},
    "a red square": {"shape": "square", "colour": "red"},
}
Row = dict[str, Any]
Writer = Callable[[Path, Sequence[Mapping[str, Any]]], Path]


def picture(seed: int, size: tuple[int, int] = (12, 12)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(*seeds: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture(seed))).permute(2, 0, 1) for seed in seeds])


def rows(part: str, texts: Sequence[str] = TEXTS * 2, prefix: str = "") -> list[Row]:
    """An image for each text; those of the test part come in the other order."""
    ordered = texts if part == "train" else texts[::-1]
    return [{"file_name": f"{prefix}{i}.png", "text": text, **MEANINGS[text]} for i, text in enumerate(ordered)]


def write_jsonl(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def write_csv(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path = folder / "metadata.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def write_images(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(encoded(picture(first + i)))


def write_folder(folder: Path, write: Writer = write_jsonl, test: str = "test") -> Path:
    """Six images to train on, of seeds 0 …, and six to test on, of seeds 100 …."""
    for part, name, first in (("train", "train", 0), ("test", test, 100)):
        write_images(folder / name, 6, first)
        write(folder / name, rows(part))
    return folder


def write_parquet(folder: Path, test: str = "test") -> Path:
    """As the datasets library writes it: images as structs."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, name, first in (("train", "train", 0), ("test", test, 100)):
        records = rows(part)
        images = [
            {"bytes": encoded(picture(first + i)), "path": record["file_name"]} for i, record in enumerate(records)
        ]
        columns = {key: [record[key] for record in records] for key in ("text", "shape", "colour")}
        table = pyarrow.table({"image": images, **columns})
        pyarrow.parquet.write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=4)
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "jsonl": write_folder,
    "csv": lambda folder: write_folder(folder, write_csv),
    "validation": lambda folder: write_folder(folder, test="validation"),
    "parquet": write_parquet,
}


class TestSource:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_classes_are_the_captions_and_labels_their_numbers(self, tmp_path: Path, layout: str) -> None:
        place = LAYOUTS[layout](tmp_path / "data")
        train, test = (load("captions", part, path=place) for part in ("train", "test"))
        assert train.classes == test.classes == TEXTS, "in order of first appearance in the training part"
        assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert test.labels.tolist() == [2, 1, 0, 2, 1, 0]
        assert torch.equal(train.batch(torch.arange(6))["input"], pixels(*range(6)))
        assert torch.equal(test.batch(torch.tensor([5, 0]))["input"], pixels(105, 100))
        name = "validation" if layout == "validation" else "test"
        assert test.ids == tuple(f"{name}/{i}.png" for i in range(6))
        assert not set(train.ids or ()) & set(test.ids or ())

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_attributes_come_from_the_same_table(self, tmp_path: Path, layout: str) -> None:
        place = LAYOUTS[layout](tmp_path / "data")
        section = Data("captions", path=str(place))
        assert read_attributes(section, TEXTS, ["shape", "colour"]) == MEANINGS
        assert read_attributes(section, TEXTS[1:], ["shape"]) == {text: {"shape": "square"} for text in TEXTS[1:]}
        assert read_attributes(section, TEXTS, []) == {}

    def test_one_table_may_speak_of_both_parts(self, tmp_path: Path) -> None:
        for part, first in (("train", 0), ("test", 100)):
            write_images(tmp_path / part, 6, first)
        write_jsonl(tmp_path, [*rows("test", prefix="test/"), *rows("train", prefix="./train/")])
        alike = write_folder(tmp_path / "alike")
        for part in ("train", "test"):
            source, other = (load("captions", part, path=place) for place in (tmp_path, alike))
            assert (source.classes, source.ids) == (other.classes, other.ids)
            assert source.fingerprint() == other.fingerprint()

    @pytest.mark.parametrize("name", ["caption", "prompt"])
    def test_other_usual_columns(self, tmp_path: Path, name: str) -> None:
        write_images(tmp_path, 2)
        write_csv(tmp_path, [{"file_name": "0.png", name: "a cat"}, {"file_name": "1.png", name: "a dog"}])
        assert load("captions", "train", path=tmp_path).classes == ("a cat", "a dog")

    def test_a_column_that_is_named(self, tmp_path: Path) -> None:
        write_images(tmp_path, 1)
        write_jsonl(tmp_path, [{"file_name": "0.png", "text": "a cat", "title": "Mog"}])
        assert load("captions", "train", path=tmp_path, caption_column="title").classes == ("Mog",)
        section = Data("captions", path=str(tmp_path), caption_column="title")
        assert read_attributes(section, ["Mog"], ["text"]) == {"Mog": {"text": "a cat"}}

    def test_a_test_part_is_cut_where_there_is_none(self, tmp_path: Path) -> None:
        write_images(tmp_path, 6)
        write_jsonl(tmp_path, rows("train"))
        with pytest.raises(DataError, match="test_fraction"):
            load("captions", "test", path=tmp_path)
        train, test = (load("captions", part, path=tmp_path, test_fraction=0.5) for part in ("train", "test"))
        assert train.classes == test.classes == TEXTS
        assert train.labels.bincount().tolist() == test.labels.bincount().tolist() == [1, 1, 1]
        assert {*(train.ids or ()), *(test.ids or ())} == {f"{i}.png" for i in range(6)}
        with pytest.raises(EmptySet, match="a class of 2"):
            load("captions", "test", path=tmp_path, test_fraction=0.2)

    def test_size_grey_and_limit(self, tmp_path: Path) -> None:
        place = write_folder(tmp_path)
        source = load("captions", "train", path=place, image_size=8, grayscale=True, limit=3)
        assert source.shape == (1, 8, 8)
        assert sorted(source.labels.tolist()) == [0, 1, 2], "balanced over captions"
        assert source.classes == TEXTS

    def test_what_a_recipe_says(self, tmp_path: Path) -> None:
        section = Data("captions", path=str(write_folder(tmp_path)), caption_column="text", limit=3, test_limit=3)
        assert [len(source) for source in load_data(section, 0, {})] == [3, 3]

    def test_images_without_a_row_are_not_read(self, tmp_path: Path) -> None:
        write_images(tmp_path, 3)
        (tmp_path / "2.png").write_bytes(b"no image")
        write_jsonl(tmp_path, rows("train", TEXTS[:2]))
        with pytest.warns(UserWarning, match=r"1 named by no row of the table \(2\.png\)"):
            assert load("captions", "train", path=tmp_path).ids == ("0.png", "1.png")

    def test_blank_lines_marks_and_quotes_do_no_harm(self, tmp_path: Path) -> None:
        write_images(tmp_path, 2)
        path = tmp_path / "metadata.jsonl"
        first, second = (json.dumps(row, ensure_ascii=False) for row in self.odd())
        path.write_text(f"\ufeff{first}\r\n\r\n{second}", newline="")
        expected = load("captions", "train", path=tmp_path).classes
        assert expected == tuple(row["text"] for row in self.odd())
        path.unlink()
        write_csv(tmp_path, self.odd())
        assert load("captions", "train", path=tmp_path).classes == expected

    def odd(self) -> list[Row]:
        return [
            {"file_name": "0.png", "text": 'a "cat", été\u2028'},
            {"file_name": "./1.png", "text": "two\nlines"},
        ]

    def test_large_sets_are_decoded_on_access(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = write_folder(tmp_path)
        whole = load("captions", "train", path=place)
        monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 100)
        source = load("captions", "train", path=place)
        assert not source.in_memory
        assert torch.equal(source.batch(torch.arange(6))["input"], whole.batch(torch.arange(6))["input"])
        (place / "train/4.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"train/4\.png"):
            check(source)

    def test_the_fingerprint_sees_a_changed_caption_and_a_changed_image(self, tmp_path: Path) -> None:
        def fingerprint(name: str, *, text: str = TEXTS[1], seed: int = 1) -> str:
            folder = tmp_path / name
            folder.mkdir()
            (folder / "0.png").write_bytes(encoded(picture(seed)))
            write_jsonl(folder, [{"file_name": "0.png", "text": text}])
            return load("captions", "train", path=folder).fingerprint()

        first = fingerprint("a")
        assert fingerprint("b") == first
        assert fingerprint("c", text=TEXTS[0]) != first
        assert fingerprint("d", seed=2) != first

    def test_it_is_listed(self) -> None:
        assert "metadata.jsonl" in SOURCES["captions"].description
        with pytest.raises(SettingError, match="label_column means nothing for the data source 'captions'"):
            load("captions", "train", path=".", label_column="label")
        with pytest.raises(SettingError, match="caption_column means nothing for the data source 'digits'"):
            load("digits", "train", caption_column="text")
        with pytest.raises(SettingError, match="needs path="):
            load("captions", "train")


# ── what is wrong ───────────────────────────────────────────────────────────────────────────────────────────────

GOOD = '{"file_name": "0.png", "text": "a cat"}\n'


class TestErrors:
    @pytest.mark.parametrize(
        ("second", "said"),
        [
            ('{"text": "a dog"}', ("line 2", "file_name")),
            ('{"file_name": "", "text": "a dog"}', ("line 2", "file_name")),
            ('{"file_name": 1, "text": "a dog"}', ("line 2", "file_name")),
            ('{"file_name": "9.png", "text": "a dog"}', ("line 2", "9.png", "does not exist")),
            ('{"file_name": "0.png", "text": "a dog"}', ("line 2", "line 1", "0.png")),
            ('{"file_name": "./0.png", "text": "a dog"}', ("line 2", "line 1", "0.png")),
            ('{"file_name": "../1.png", "text": "a dog"}', ("line 2", "../1.png", "outside")),
            ('{"file_name": "a/../../1.png", "text": "a dog"}', ("line 2", "outside")),
            ('{"file_name": "/1.png", "text": "a dog"}', ("line 2", "/1.png", "outside")),
            ('{"file_name": "1.png"}', ("line 2", "text is missing")),
            ('{"file_name": "1.png", "text": null}', ("line 2", "text is missing")),
            ('{"file_name": "1.png", "text": " "}', ("line 2", "says nothing")),
            ('{"file_name": "1.png", "text": ["a dog"]}', ("line 2", "a dog")),
            ("\nfile_name: 1.png", ("line 3", "JSON")),
            ('["1.png", "a dog"]', ("line 2", "JSON object")),
        ],
    )
    def test_a_row_of_json(self, tmp_path: Path, second: str, said: tuple[str, ...]) -> None:
        write_images(tmp_path, 2)
        path = tmp_path / "metadata.jsonl"
        path.write_text(GOOD + second)
        self.refused(tmp_path, str(path), *said)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("file_name,text\n0.png,a cat\n1.png,\n", ("line 3", "text is missing")),
            ("file_name,text\n0.png,a cat\n1.png\n", ("line 3", "text is missing")),
            ("file_name,text\n0.png,a cat\n1.png,a dog, black\n", ("line 3", "' black'", "quotes")),
            ('file_name,text\n0.png,"a cat\n1.png,a dog\n', ("line 2",)),
            ("file_name,text,text\n0.png,a cat,b\n", ("line 1", "text")),
            ("image,text\n0.png,a cat\n", ("line 2", "file_name")),
            ("file_name,words\n0.png,a cat\n", ("'text' or 'caption' or 'prompt'", "caption_column", "words")),
        ],
    )
    def test_a_row_of_csv(self, tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
        write_images(tmp_path, 2)
        path = tmp_path / "metadata.csv"
        path.write_text(text)
        self.refused(tmp_path, str(path), *said)

    def test_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "metadata.csv"
        path.write_bytes("file_name,text\n0.png,été\n".encode("latin-1"))
        self.refused(tmp_path, f"{path}, line 2")

    def test_a_test_caption_that_is_not_trained_on(self, tmp_path: Path) -> None:
        place = write_folder(tmp_path)
        path = write_jsonl(place / "test", [*rows("test")[:2], {"file_name": "2.png", "text": "a dog"}])
        self.refused(place, f"{path}, line 3", "'a dog'")
        with pytest.raises(DataError, match="a dog"):
            load("captions", "test", path=place)

    def test_a_column_that_only_one_part_has(self, tmp_path: Path) -> None:
        place = write_folder(tmp_path)
        path = write_jsonl(place / "test", [{"file_name": "0.png", "caption": TEXTS[0]}])
        self.refused(place, str(path), "'text'")

    def test_a_column_that_is_named_wrongly(self, tmp_path: Path) -> None:
        place = write_folder(tmp_path)
        with pytest.raises(DataError, match="no column 'tezt'.*file_name, text, shape, colour"):
            load("captions", "train", path=place, caption_column="tezt")

    @pytest.mark.parametrize("empty", ["", "\n"])
    def test_a_table_without_rows(self, tmp_path: Path, empty: str) -> None:
        (tmp_path / "metadata.jsonl").write_text(empty)
        with pytest.raises(EmptySet, match=r"metadata\.jsonl"):
            load("captions", "train", path=tmp_path)

    def test_folders(self, tmp_path: Path) -> None:
        self.refused(tmp_path, str(tmp_path), "metadata.jsonl or metadata.csv")
        with pytest.raises(DataError, match="nowhere does not exist"):
            load("captions", "train", path=tmp_path / "nowhere")
        write_images(tmp_path / "test", 2)
        write_jsonl(tmp_path / "test", rows("test", TEXTS[:2]))
        self.refused(tmp_path, "holds test/ and no train/")
        write_images(tmp_path / "train", 2)
        path = write_jsonl(tmp_path / "train", rows("train", TEXTS[:2]))
        self.refused(path, f"{path} is a file")
        write_csv(tmp_path / "train", rows("train", TEXTS[:2]))
        self.refused(tmp_path, f"{tmp_path / 'train'} holds metadata.jsonl and metadata.csv")

    def test_rows_of_parquet_files(self, tmp_path: Path) -> None:
        place = write_parquet(tmp_path)
        (file,) = place.glob("train-*.parquet")
        table = pyarrow.parquet.read_table(file)
        texts = [*table.column("text").to_pylist()[:5], None]
        column = table.column_names.index("text")
        pyarrow.parquet.write_table(table.set_column(column, "text", [texts]), file)
        self.refused(place, f"row 5 of {file}", "text is missing")
        file.write_bytes(b"PAR1")
        self.refused(place, str(file), "cannot be read as parquet")

    def refused(self, path: Path, *said: str) -> None:
        with pytest.raises(DataError) as caught:
            load("captions", "train", path=path)
        assert all(each in str(caught.value) for each in said), caught.value


class TestAttributes:
    def section(self, folder: Path, records: Sequence[Mapping[str, Any]]) -> Data:
        write_images(folder, len(records))
        write_jsonl(folder, records)
        return Data("captions", path=str(folder))

    def test_numbers_are_taken_as_they_are_written(self, tmp_path: Path) -> None:
        section = self.section(tmp_path, [{"file_name": "0.png", "text": "two cats", "cats": 2}])
        assert read_attributes(section, ["two cats"], ["cats"]) == {"two cats": {"cats": "2"}}

    def test_a_column_that_is_missing(self, tmp_path: Path) -> None:
        section = self.section(tmp_path, rows("train", TEXTS))
        with pytest.raises(DataError, match=r"metadata\.jsonl has no column 'size'.*shape, colour"):
            read_attributes(section, TEXTS, ["shape", "size"])

    @pytest.mark.parametrize("value", [None, " ", ["red"]])
    def test_a_value_that_is_missing(self, tmp_path: Path, value: Any) -> None:
        section = self.section(tmp_path, [*rows("train", TEXTS)[:2], {**rows("train", TEXTS)[2], "colour": value}])
        with pytest.raises(DataError, match=r"metadata\.jsonl, line 3: colour"):
            read_attributes(section, TEXTS, ["colour"])

    def test_a_caption_with_two_values(self, tmp_path: Path) -> None:
        records = rows("train", TEXTS)
        section = self.section(tmp_path, [*records, {**records[0], "file_name": "3.png", "colour": "pink"}])
        with pytest.raises(DataError, match="line 4: colour is 'pink'.*'a red circle' has 'red'"):
            read_attributes(section, TEXTS, ["shape", "colour"])

    def test_two_values_in_two_parts(self, tmp_path: Path) -> None:
        place = write_folder(tmp_path)
        path = write_jsonl(place / "test", [{**row, "colour": "pink"} for row in rows("test")])
        with pytest.raises(DataError, match="pink") as caught:
            read_attributes(Data("captions", path=str(place)), TEXTS, ["colour"])
        assert str(path) in str(caught.value)

    def test_a_caption_that_is_not_there(self, tmp_path: Path) -> None:
        section = self.section(tmp_path, rows("train", TEXTS[:1]))
        with pytest.raises(DataError, match="a blue square"):
            read_attributes(section, TEXTS, ["colour"])

    def test_data_without_captions(self) -> None:
        assert read_attributes(Data("fashion"), ["Coat"], []) == {}
        with pytest.raises(SettingError, match="'fashion'"):
            read_attributes(Data("fashion"), ["Coat"], ["colour"])


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
@pytest.mark.parametrize(
    "names", [{"file_name": "File_Name"}, {"text": "Text"}, {"file_name": "filename", "text": "TEXT "}]
)
def test_columns_that_come_close_are_used_and_that_is_said(
    tmp_path: Path, write: Writer, names: dict[str, str]
) -> None:
    write_images(tmp_path, 6)
    write(tmp_path, [{names.get(key, key): value for key, value in row.items()} for row in rows("train")])
    with pytest.warns(UserWarning, match="is read as"):
        source = load("captions", "train", path=tmp_path)
    assert source.classes == TEXTS and torch.equal(source.batch(torch.arange(6))["input"], pixels(*range(6)))


def test_each_part_has_its_own_spelling(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_jsonl(tmp_path / "test", [{"file_name": row["file_name"], "Text": row["text"]} for row in rows("test")])
    with pytest.warns(UserWarning, match="'Text' is read as text"):
        assert len(load("captions", "test", path=tmp_path)) == 6


def test_a_column_that_looks_like_the_captions_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    write_csv(tmp_path, [{**row, "captions": "other"} for row in rows("train")])
    with pytest.warns(UserWarning, match="'captions' is not read: 'text' is"):
        load("captions", "train", path=tmp_path)


def test_hidden_images_of_a_table_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    write_images(tmp_path / ".cache", 6)
    write_csv(tmp_path, [*rows("train"), *rows("train", prefix=".cache/")])
    with pytest.warns(UserWarning, match=r"6 hidden.*\.cache/0\.png"):
        assert len(load("captions", "train", path=tmp_path)) == 6


def test_photographs_of_a_table_are_upright(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    tags = Image.Exif()
    tags[0x0112] = 6
    picture(0).save(tmp_path / "0.png", exif=tags)
    write_csv(tmp_path, rows("train"))
    assert torch.equal(load("captions", "train", path=tmp_path)[0]["input"], pixels(0)[0].rot90(-1, (1, 2)))
