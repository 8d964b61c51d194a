"""Folders: made once, one process at work in each at a time, and nothing written through links or into ghosts."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from untrain.errors import FolderError
from untrain.folders import (
    PRIVATE,
    ensure_dir,
    exclusive_lock,
    is_name,
    is_temporary,
    shorten_name,
    usual_mode,
    was_written,
    watched,
)
from untrain.io import write_text

HOLDER = """\
import sys, time, pathlib
from untrain.folders import exclusive_lock
with exclusive_lock(pathlib.Path(sys.argv[1]), name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Starts another process that locks a folder, or what is called so in it; all are killed in the end."""
    started = []

    def start(folder: Path, name: str = "") -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, folder, name], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_is_held_by_one_process_at_a_time_and_given_back_however_it_ends(tmp_path, hold):
    process = hold(tmp_path)
    with pytest.raises(FolderError, match="another process is at work in .*Wait for it"), exclusive_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with exclusive_lock(tmp_path):
        assert os.listdir(tmp_path) == [".lock.tmp"]
    assert os.listdir(tmp_path) == []


def test_parts_of_a_folder_are_held_side_by_side_but_not_with_the_whole(tmp_path, hold):
    hold(tmp_path, "sfron")
    with exclusive_lock(tmp_path, name="finetune"):
        pass
    for name in ("sfron", ""):
        with pytest.raises(FolderError, match="another process"), exclusive_lock(tmp_path, name=name):
            pass
    with exclusive_lock(tmp_path / "other"), pytest.raises(FolderError), exclusive_lock(tmp_path / "other"):
        pass


def test_a_lock_is_not_opened_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FolderError, match="link"), exclusive_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_files_are_not_written_through_planted_links(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "a.txt").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "victim").read_text() == "precious" and (tmp_path / "a.txt").read_text() == "new"


def test_nothing_is_written_into_a_linked_folder_of_a_run(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/grids").symlink_to(tmp_path / "elsewhere")
    with exclusive_lock(tmp_path / "run"), pytest.raises(FolderError, match="grids is a link"):
        write_text(tmp_path / "run/grids/a.txt", "")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_folder_that_was_made_for_nothing_is_removed_again(tmp_path):
    with pytest.raises(ValueError, match="wrong"), exclusive_lock(tmp_path / "runs/one"):
        raise ValueError("wrong")
    assert os.listdir(tmp_path) == []
    with exclusive_lock(tmp_path / "runs/one"):
        write_text(tmp_path / "runs/one/a.txt", "")
    assert os.listdir(tmp_path / "runs/one") == ["a.txt"]


def test_a_run_folder_is_its_owners_alone_and_files_have_the_usual_mode(tmp_path):
    with exclusive_lock(tmp_path / "runs/one", mode=PRIVATE):
        write_text(tmp_path / "runs/one/a.txt", "")
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("runs/one", "runs/one/a.txt")]
    assert modes == [0o700, usual_mode(tmp_path)]
    with exclusive_lock(tmp_path / "shared", mode=0o755):
        write_text(tmp_path / "shared/a.txt", "")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


@pytest.mark.parametrize("anew", [False, True])
def test_a_folder_that_is_removed_is_not_made_anew(tmp_path, anew):
    folder = tmp_path / "run"
    with exclusive_lock(folder):
        write_text(folder / "a.txt", "")
        assert was_written(folder / "a.txt") and not was_written(folder / "b.txt")
        shutil.rmtree(folder)
        if anew:
            folder.mkdir()
        for write in (lambda: write_text(folder / "grids/b.txt", ""), lambda: ensure_dir(folder / "grids")):
            with pytest.raises(FolderError, match="is gone"):
                write()
    assert not folder.exists() or os.listdir(folder) == []
    with pytest.raises(FolderError, match="there is no folder"), watched(tmp_path / "other"):
        pass


def test_what_killed_processes_left_is_removed_but_not_where_others_are_at_work(tmp_path, hold):
    names = ["a.txt", ".a.txt.0123abcd.tmp", ".tmpAbC123", "grids/.b.png.0123abcd.tmp", "cell/.c.1.tmp", ".hidden"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    hold(tmp_path / "cell", "sfron")
    with exclusive_lock(tmp_path):
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"a.txt", ".hidden", "cell/.c.1.tmp"} <= left
    assert not left & {".a.txt.0123abcd.tmp", ".tmpAbC123", "grids/.b.png.0123abcd.tmp"}
    assert is_temporary(".tmpAbC123") and not is_temporary(".tmpAbC1234") and not is_temporary("a.tmp")


def test_names_that_every_file_system_takes(tmp_path):
    for name in ("a", "a b", "x.y-z", "ü" * 100, "名" * 66, "x" * 200):
        assert is_name(name)
        (tmp_path / f"{name}.resume.safetensors").write_text("")
    for name in ("", ".", "..", ".x", "-x", "a/b", "a\\b", "a\tb", "a\0", "x" * 201, "ü" * 101, "名" * 67, "\ud800"):
        assert not is_name(name)


def test_long_texts_become_names_that_differ():
    long = "x" * 300
    names = {shorten_name(text) for text in (long, f"{long}y", "名" * 300, "名" * 301)}
    assert len(names) == 4 and all(is_name(name) and len(name.encode()) <= 100 for name in names)
    assert shorten_name("cat-dog") == "cat-dog"
