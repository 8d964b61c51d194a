"""Files that hang, flood memory or make no sense: each is read, or refused by an error of ours, within seconds."""

import math
import os
import resource
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.hostile_files import hostile_files
from untrain import reading
from untrain.data.captions import read_attributes
from untrain.data.request import load_data
from untrain.data.sections import Data
from untrain.data.sources import load
from untrain.errors import CheckpointError, DataError, SettingError, UntrainError
from untrain.models.checkpoints import load_state
from untrain.reading import check_inside, check_regular, find_files, find_folders, parse_json, read_bytes, read_text
from untrain.runs.recipe import read
from untrain.tasks.text_to_image.concepts import Concept, images_of

SECONDS = 20
"""What one file may take on a machine that does much else; none takes more than two on one that does not."""
MEMORY = 1 << 30
"""Bytes that all files together may take beyond what the libraries do."""


class Hang(BaseException):
    """No error that a reader could take for one of a file's."""


def _hangs(*_):
    raise Hang


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return hostile_files(tmp_path_factory.mktemp("hostile"), seed=0)


def outcome(reader):
    """What is wrong with how a file is read: nothing where it is read, or refused in words that can be written."""
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader()
    except UntrainError as error:
        return None if str(error).encode(errors="replace").decode() == str(error) else f"unprintable: {error!a}"
    except Hang:
        return "hangs"
    except BaseException as error:
        return f"{type(error).__name__}: {error!a}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None


def test_every_hostile_file_is_read_or_refused(files):
    assert len(files) > 500
    before = memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a user's run has it: a warning must not hide what follows
        wrong = {name: said for name, reader in files if (said := outcome(reader)) is not None}
    assert not wrong
    assert memory() - before < MEMORY


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("image_folders: pipe", "z.png is a named pipe"),
        ("image_folders: socket", "z.png is a socket"),
        ("image_folders: zero", "z.png .*links=True"),
        ("image_folders: zero, links allowed", "z.png is a device"),
        ("image_folders: a link out to a file", "a/z.png .*outside.*links=True"),
        ("image_folders: a link out to a class", "/c .*links=True"),
        ("image_folders: a link out to a folder", "a/more .*links=True"),
        ("image_folders: a link to itself", "a/more is a link to a folder that is read already"),
        ("image_folders: a class that is a circle", "/c is a link that leads nowhere"),
        ("image_folders: an image that is no text", r"\\udcff.png is not text"),
        ("image_folders: doubling links", "read already"),
        ("images: png bomb", "a bomb"),
        ("images: eps", "cannot be decoded"),
        ("arrays: a bomb", "a bomb"),
        ("arrays: x of a lying shape", "1.49 GiB, and 128 bytes are there"),
        ("arrays: labels of 2 ** 62", "classes"),
        ("captions: deep.jsonl", "line 1: .*nested"),
        ("captions: a link out.jsonl", "out.png .*links=True"),
        ("captions: behind a link.jsonl", "outside .*links=True"),
        ("tables: a path out", "passwd.*links=True"),
        ("tables: an absolute path", "passwd.*links=True"),
        ("weights: a bomb.pt", "a bomb"),
        ("recipes: deep", "nested"),
        ("recipes: called '../../esc'", "line 1: name must be the name of a folder"),
        ("recipes: --data.path not text", r"--data.path: .*\\udcff.*not text"),
    ],
)
def test_what_is_said_of_a_file_names_the_culprit_and_the_remedy(files, name, culprit):
    with pytest.raises(UntrainError, match=culprit):
        dict(files)[name]()


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────


def images(folder, count=3):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def test_links_that_stay_inside_are_followed_and_those_that_lead_out_where_that_is_allowed(tmp_path):
    inside, outside = images(tmp_path / "data" / "a").parent, images(tmp_path / "elsewhere")
    (inside / "b").symlink_to("a")
    (inside / "a" / "9.png").symlink_to("0.png")

    def count(path, **links):
        return sum(len(load("folder", part, path=path, test_fraction=0.3, **links)) for part in ("train", "test"))

    assert count(inside) == 4 + 4
    (inside / "c").symlink_to(outside)
    with pytest.raises(DataError, match="links=True"):
        count(inside)
    assert count(inside, links=True) == 4 + 4 + 3
    (tmp_path / "link").symlink_to(inside)
    assert count(tmp_path / "link", links=True) == 4 + 4 + 3


@pytest.mark.filterwarnings("ignore:left out of the samples")
def test_the_permission_reaches_every_reader_of_a_folder(tmp_path):
    real = images(tmp_path / "real", 1)
    folder = images(tmp_path / "data", 1)
    (folder / "out.png").symlink_to(real / "0.png")
    (folder / "metadata.csv").write_text("file_name,text,kind\n0.png,a,x\nout.png,a,x\n")
    section = Data("captions", str(folder), test_fraction=0.5)
    refused = [
        lambda links: load_data(section, 0, {}, links=links),
        lambda links: images_of(Concept("a", images=folder, links=links), 0, ("a",)),
        lambda links: images_of(Concept("a", images=folder), 0, ("a",), links=links),
    ]
    for reader in refused:
        with pytest.raises(DataError, match=r"out.png.*links=True"):
            reader(False)
        reader(True)
    (folder / "metadata.csv").rename(real / "metadata.csv")
    (folder / "metadata.csv").symlink_to(real / "metadata.csv")
    with pytest.raises(DataError, match=r"metadata.csv.*links=True"):
        read_attributes(section, ["a"], ["kind"])
    assert read_attributes(section, ["a"], ["kind"], links=True) == {"a": {"kind": "x"}}


def test_the_cache_of_the_hub_links_to_its_blobs(tmp_path):
    repository = tmp_path / "datasets--owner--name"
    snapshot = repository / "snapshots" / "0123abcd" / "data"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "beef").write_bytes(b"x")
    (snapshot / "a.png").symlink_to("../../../blobs/beef")
    for folder in (snapshot, snapshot.parent):
        check_inside(snapshot / "a.png", folder, links=False)
    assert find_files(snapshot, snapshot, (".png",)) == [snapshot / "a.png"]
    (tmp_path / "secret").write_bytes(b"x")
    (snapshot / "b.png").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="secret"):
        check_inside(snapshot / "b.png", snapshot, links=False)


# ── rights, limits, text ────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_or_a_file_without_rights_is_named(tmp_path, monkeypatch):
    """As root nothing is forbidden, so the system's answer is given in its place."""
    images(tmp_path / "data" / "a")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as changed:
        changed.setattr(os, "scandir", forbidden)
        for look in (find_folders, lambda *given: find_files(*given, (".png",))):
            with pytest.raises(DataError, match=r"data cannot be read: Permission denied"):
                look(tmp_path / "data", tmp_path / "data")
    with monkeypatch.context() as changed:
        changed.setattr(os, "open", forbidden)
        with pytest.raises(DataError, match=r"0.png cannot be read: Permission denied"):
            load("folder", "train", path=tmp_path / "data")
        with pytest.raises(SettingError, match="Permission denied"):
            read(tmp_path / "data" / "a" / "0.png")
    with monkeypatch.context() as changed:
        changed.setattr(os, "stat", forbidden)
        with pytest.raises(CheckpointError, match=r"0.png cannot be read: Permission denied"):
            load_state(tmp_path / "data" / "a" / "0.png")
        with pytest.raises(DataError, match="Permission denied"):
            load("folder", "train", path=tmp_path / "data")


def test_what_becomes_another_file_after_it_was_looked_at_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "x")
    monkeypatch.setattr(reading, "check_regular", lambda *_: 0)
    with pytest.raises(DataError, match="named pipe"):
        read_bytes(tmp_path / "x", 10)


def test_files_are_read_up_to_their_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf1234567")
    assert read_bytes(tmp_path / "x", 10)[3:] == b"1234567" and read_text(tmp_path / "x", 10) == "1234567"
    with pytest.raises(DataError, match=r"x is larger than the 9 bytes"):
        read_bytes(tmp_path / "x", 9)
    assert check_regular(tmp_path / "x") == 10
    assert read_bytes("/proc/self/status", 1 << 16).startswith(b"Name:")  # which does not tell its size
    with pytest.raises(DataError, match="larger"):
        read_bytes("/proc/self/status", 100)


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, "[[\\u00e9"]}', "[" * 60 + "]" * 60, '"\\ud83d\\ude00"', "1"])
def test_json_that_is_read(text):
    assert parse_json(text) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 70 + "]" * 70, "nested"),
        ("[" * 10**5, "nested"),
        ("-Infinity", "no number"),
        ("[1e400]", "too large"),
        ("9" * 5000, "digits"),
        ('["\\ud83d"]', "half a character"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_entries_may_be_unbounded_where_that_is_known():
    text = '{"a": {"low": -Infinity}, "b": [1.5, {"low": Infinity}]}'
    assert parse_json(text, unbounded=["low"]) == {"a": {"low": -math.inf}, "b": [1.5, {"low": math.inf}]}
    for other in ('{"high": Infinity}', '{"low": NaN}', '{"low": [-Infinity]}', "-Infinity", '{"low": 1e400}'):
        with pytest.raises(ValueError, match=r"no number|too large"):
            parse_json(other, unbounded=["low"])


def test_the_name_of_a_recipe_is_one_folder():
    for name in ("a", "a b", "été", "x.y-z", "ü" * 100):
        assert read(None, ["--name", name]).folder == Path("runs") / name
    for name in ("../x", "/x", "a/b", "a\\b", ".x", "..", "-x", "'a\tb'", "''", "ü" * 101):
        with pytest.raises(SettingError, match="--name must be the name of a folder"):
            read(None, [f"--name={name}"])
