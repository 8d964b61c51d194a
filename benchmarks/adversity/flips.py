"""One bit of one file of a run folder is flipped, and a command reads the folder."""

import re
import shutil
from pathlib import Path
from random import Random
from signal import SIGKILL

from adversity.commands import Ended
from adversity.folders import differences, half_written, names
from adversity.worlds import OUT, SCENARIOS, World


def _of_run(recipe: str, *more: str) -> tuple[str, ...]:
    """What reads the folder of a run."""
    on = f"{{{recipe}}} --out {{out}}"
    return (f"run {on} --resume", "run {out} --resume", f"evaluate {on}", "report {out}", *more)


_SAMPLE = "sample {out} --count 1 --form folder"
READERS = {
    "run": _of_run("classes"),
    "run-generator": _of_run("generator", _SAMPLE, f"{_SAMPLE} --model original"),
    "run-text": _of_run("text", "sample {out} --prompts {prompts} --steps 2"),
    "compare": ("compare {classes} --out {out} --references 2 --resume", "compare {out} --resume", "report {out}"),
    "interrupted": ("run {classes} --out {out} --resume", "run {out} --resume"),
}
"""Which folder → what reads it."""
_CENTRAL = (".safetensors", ".json", ".jsonl", ".yaml", ".pt")
_GOES_ON = ("run ", "evaluate ", "compare ")
_SHOWS = {"report": ("report.html",), "compare": (".csv", ".md", ".tex", ".txt")}
"""Command → what it makes of the folder's files alone; other pages tell when they were made."""


def flip(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Flips a bit, runs one reader, and wants it to name this very file, or to end as if nothing had happened."""
    kind = rng.choice([name for name in READERS if name == "interrupted" or name in world.scenarios])
    reader = rng.choice(READERS[kind])
    whole = interrupted(world) if kind == "interrupted" else world.undisturbed(SCENARIOS[kind]).folder
    expected = world.once(("read", kind, reader), lambda shared: _read_whole(world, whole, reader, shared))
    out = world.copy(whole, place)
    name = _choose(rng, out)
    offset, bit = _flip(rng, out / name)
    flipped = (out / name).read_bytes()
    ended = world.run(reader, place)
    told = f"{kind}: {name}, byte {offset}, bit {bit}, then {reader}: exit {ended.code}"
    problems = ended.failed_badly()
    if ended.code == 1:
        return told, problems + _blames_badly(ended, out, name, names(whole))
    if ended.code:
        return told, problems or [f"exit {ended.code}: {ended.last_words}"]
    is_left = (out / name).exists() and (out / name).read_bytes() == flipped
    may_be = [f"{name} differs", f"{name} is damaged"] if is_left and not _matters(name, reader) else []
    problems += [each for each in differences(out, expected) if not each.startswith(tuple(may_be))]
    return told, problems + _shown_otherwise(out, expected, reader)


def _shown_otherwise(out: Path, expected: Path, reader: str) -> list[str]:
    """Pages and tables that say something else than those made of a whole folder by the same command."""
    kinds = _SHOWS.get(reader.split()[0], ())
    pages = [name for name in names(expected) if name.endswith(kinds)] if kinds else []
    texts = {name: [_text(folder, name) for folder in (out, expected)] for name in pages}
    return [f"{name} shows something else" for name, (one, other) in texts.items() if one != other]


def _text(folder: Path, name: str) -> str:
    path = folder / name
    return path.read_text(errors="replace").replace(str(folder), "FOLDER") if path.exists() else ""


def _matters(name: str, reader: str) -> bool:
    """Whether a command that goes on with a run must see that a file is damaged: weights that it goes on from."""
    is_weights = name.endswith(".safetensors") and ".mask." not in name
    return reader.startswith(_GOES_ON) and is_weights and ("/" not in name or name.startswith("cells/"))


def _choose(rng: Random, out: Path) -> str:
    """A file with something in it; every other time one that a run goes on from, and no picture or saved pipeline."""
    held = [name for name in names(out) if (out / name).stat().st_size]
    central = [name for name in held if name.endswith(_CENTRAL) and ("/" not in name or name.startswith("cells/"))]
    return rng.choice(rng.choice((held, central)))


def _flip(rng: Random, path: Path) -> tuple[int, int]:
    data, part, bit = bytearray(path.read_bytes()), rng.random(), rng.randrange(8)
    offset = int(part * len(data))
    data[offset] ^= 1 << bit
    path.write_bytes(data)
    return offset, bit


def _read_whole(world: World, whole: Path, reader: str, place: Path) -> Path:
    out = world.copy(whole, place)
    ended = world.run(reader, place)
    if ended.code:
        raise RuntimeError(f"on a whole folder, {reader} ended with {ended.code}: {ended.last_words}")
    return out


def _blames_badly(ended: Ended, out: Path, name: str, known: list[str]) -> list[str]:
    """Whether a refusal names another file than the damaged one, or advises to remove a good one."""
    said = " ".join((ended.out + ended.err).split())
    named = [each for each in known if re.search(re.escape(f"{out / each}") + r"(?![\w-]|\.\w)", said)]
    if name not in named:
        return [f"it names {', '.join(named) or 'no file'}: {ended.last_words}"]
    others = [each for each in named if each != name]
    advice = re.search(r"[Rr]emove", said)
    return [f"{', '.join(others)} is named too: {ended.last_words}"] if others and advice else []


def interrupted(world: World) -> Path:
    """A run folder with checkpoints of a method or a training that was killed."""

    def make(place: Path) -> Path:
        seconds = world.undisturbed(SCENARIOS["run"]).seconds
        for attempt in range(100):
            here = place / str(attempt)
            out = here / OUT
            running = world.launcher.start(world.words(SCENARIOS["run"].words, out), here)
            while running.poll() is None and not (out / "retrained.resume.pt").exists():
                continue
            ended = running.signal_at(0, SIGKILL)
            if ended.code == 137 and (out / "retrained.resume.pt").exists() and not half_written(out):
                return out
            shutil.rmtree(here)
        raise RuntimeError(f"no run of {seconds:.1f} s could be killed at a checkpoint")

    return world.once("interrupted", make)
