"""Disks that are full, files that may not grow, and folders that are taken away."""

import math
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from random import Random

from adversity.commands import Ended
from adversity.folders import content, differences, half_written, is_temporary, names
from adversity.worlds import OUT, Scenario, World

PAGE = 4096
_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$2 none "$1" && cp -a "$3/." "$1" || exit 99
out=$1 after=$4; shift 4; "$@"; code=$?
cp -a "$out/." "$after"; exit $code
"""
"""The disk lies on the run folder in a name space of its own, so nobody else sees it; it is gone with the command."""


def fill(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Runs a command with little space, then goes on with it with enough; or takes its folder away."""
    scenario = world.choose(rng, but=("two-processes",))
    way, part = rng.choice(("limit", "limit", "disk", "disk", "removed")), rng.random()
    if way == "removed":
        return _take_away(world, scenario, place, part)
    undisturbed, start = world.undisturbed(scenario), world.start(scenario)
    before = world.copy(start, place / "before")
    before.mkdir(exist_ok=True)
    if way == "disk" and can_mount():
        ended, about = _on_small_disk(world, scenario, place, undisturbed.folder, part)
    else:
        ended, about = _with_limit(world, scenario, place, undisturbed.folder, part)
    out = place / OUT
    problems = [*ended.failed_badly(), *_told_badly(ended, out)]
    problems += half_written(out) + _lost(before, out)
    problems += [
        f"{name} is left" for name in names(out) if is_temporary(name) and ended.code and "concepts" not in name
    ]
    again = world.run(scenario.resumed, place)
    problems += again.failed_badly()
    if again.code:
        problems.append(f"with space again, it ends with {again.code}: {again.last_words}")
    else:
        problems += differences(out, undisturbed.folder)
    return f"{scenario.name}, {about}, exit {ended.code}", problems


def _take_away(world: World, scenario: Scenario, place: Path, part: float) -> tuple[str, list[str]]:
    """Removes the run folder while a command works in it: it must say so, and not begin another one with its rest."""
    moment = part * world.undisturbed(scenario).seconds
    out = world.copy(world.start(scenario), place)
    running = world.launcher.start(world.words(scenario.words, out), place)
    late = running.wait(moment)
    was_there = out.exists()
    while out.exists():  # it may write while its folder is being removed
        shutil.rmtree(out, ignore_errors=True)
        time.sleep(0.001)
    ended = running.end(late)
    told = f"{scenario.name}, its folder removed after {moment:.2f} s, exit {ended.code}"
    if late or not was_there:
        return told, ended.failed_badly() + ([f"exit {ended.code}: {ended.last_words}"] if ended.code else [])
    left = [name for name in names(out) if not is_temporary(name)] if out.exists() else []
    if ended.code == 0 and {"config.yaml", "split.json"} <= {*left}:  # it had not begun yet, and made a run of its own
        return told, ended.failed_badly()
    problems = ended.failed_badly() + [f"{name} is written into a new folder" for name in left]
    if ended.code not in (0, 1):
        problems.append(f"exit {ended.code}: {ended.last_words}")
    if ended.code == 1 and str(out) not in ended.out + ended.err:
        problems.append(f"it does not name the folder: {ended.last_words}")
    return told, problems


@cache
def can_mount() -> bool:
    """Whether a small disk can be had: it takes root, and Linux."""
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    return not subprocess.run(tried, capture_output=True).returncode


def _with_limit(world: World, scenario: Scenario, place: Path, whole: Path, part: float) -> tuple[Ended, str]:
    """No file may be larger than so many bytes, from a page to a tenth more than the largest, by factors."""
    largest = max((whole / name).stat().st_size for name in names(whole))
    bound = int(math.exp(math.log(PAGE) + part * math.log(1.1 * largest / PAGE)))
    shutil.copytree(place / "before" / OUT, place / OUT)
    return world.run(scenario.words, place, largest=bound), f"files to {bound} bytes"


def _on_small_disk(world: World, scenario: Scenario, place: Path, whole: Path, part: float) -> tuple[Ended, str]:
    """The run folder lies on a disk with space for a part of what the command writes."""
    before, after, out = place / "before" / OUT, place / "after", place / OUT
    held, wanted = _pages(before), _pages(whole)
    size = held + PAGE * int(part * (wanted - held + PAGE * 8) / PAGE) + PAGE
    out.mkdir()
    after.mkdir()
    disk = ["unshare", "-m", "bash", "-c", _ON_A_SMALL_DISK, "bash", out, size, before, after]
    command = [*map(str, disk), *world.launcher.untrain, *world.words(scenario.words, out)]
    ended = world.launcher.execute(command, place).end()
    out.rmdir()
    after.rename(out)
    return ended, f"a disk of {size} bytes, {held} of them taken"


def _pages(folder: Path) -> int:
    """Bytes that a folder takes on a disk whose files are whole pages."""
    sizes = [path.stat().st_size if path.is_file() else PAGE for path in folder.rglob("*")]
    return PAGE * (1 + sum(-(-size // PAGE) for size in sizes))


def _told_badly(ended: Ended, out: Path) -> list[str]:
    """Whether a refusal names a file of the folder and says what to do."""
    if ended.code == 0:
        return []
    if ended.code != 1:
        return [f"exit {ended.code}: {ended.last_words}"]
    found = [] if str(out) in ended.out + ended.err else [f"no file is named: {ended.last_words}"]
    advice = any(word in (ended.out + ended.err).lower() for word in ("free some", "choose another", "make room"))
    return found if advice else [*found, f"it does not say what to do: {ended.last_words}"]


def _lost(before: Path, after: Path) -> list[str]:
    """Files that were there and are not as they were: gone, or weights that are others now."""
    found = [f"{name} was there and is gone" for name in names(before) if not (after / name).exists()]
    for path in before.rglob("*.safetensors"):
        name = path.relative_to(before)
        if (after / name).exists() and content(path) != content(after / name):
            found.append(f"{name} is no longer what it was")
    return found
