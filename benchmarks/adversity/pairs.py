"""Two commands at once in one folder."""

import re
import threading
import time
from pathlib import Path
from random import Random

import yaml

from adversity.commands import Ended
from adversity.folders import differences, half_written
from adversity.worlds import SCENARIOS, World

_OTHER = " --seed 5"
COMMANDS = {
    "run": "run {classes} --out {out}",
    "run another": "run {classes} --out {out}" + _OTHER,
    "resume": "run {classes} --out {out} --resume",
    "train": "train {classes} --out {out}",
    "unlearn": "unlearn {classes} --out {out}",
    "evaluate": "evaluate {classes} --out {out}",
    "report": "report {out}",
    "compare": SCENARIOS["compare"].words,
    "sample": SCENARIOS["sample"].words,
    "resume a generator": "run {generator} --out {out} --resume",
    "evaluate a generator": "evaluate {generator} --out {out}",
}
OF_GENERATORS = ("sample", "resume a generator", "evaluate a generator", "report")
STARTS = {
    "nothing": (),
    "trained": ("train {classes} --out {out}",),
    "finished": ("run {classes} --out {out}",),
    "generator": ("run {generator} --out {out}",),
}
REFUSED = re.compile(
    r"another process is at work|already holds a run|holds a run of another recipe|holds no model yet|is not empty and "
    r"holds no run|there is no run folder|holds no run|holds neither|holds a comparison|nothing to report"
)
"""What a command may be told that comes second, or too early."""


def meet(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Starts two commands at once, and wants a folder in which one recipe is at home."""
    starts = [name for name in STARTS if name != "generator" or "run-generator" in world.scenarios]
    start = rng.choice(["nothing", *starts])
    known = [name for name in COMMANDS if (name in OF_GENERATORS) == (start == "generator") or name == "report"]
    known = [name for name in known if name != "compare" or "compare" in world.scenarios]
    pair, delay = (rng.choice(known), rng.choice(known)), 2 * rng.random() ** 3  # mostly at nearly the same time
    out = world.copy(world.after(STARTS[start]) if STARTS[start] else None, place)
    told = f"{start}: {pair[0]}, and {delay:.2f} s later {pair[1]}"
    ended = _at_once(world, pair, delay, place)
    problems = []
    for name, each in zip(pair, ended, strict=True):
        problems += [f"{name}: {problem}" for problem in each.failed_badly()]
        if each.code not in (0, 1):
            problems.append(f"{name}: exit {each.code}: {each.last_words}")
        elif each.code and not REFUSED.search(" ".join(each.err.split())):
            problems.append(f"{name} fails otherwise: {each.last_words}")
    if start == "nothing" and pair[0][:3] == pair[1][:3] == "run" and not ended[0].code and not ended[1].code:
        problems.append("both new runs ended well in one folder")
    told += f": exit {ended[0].code} and {ended[1].code}"
    return told, problems + (_inconsistent(world, out, place, start) if out.exists() else [])


def _at_once(world: World, pair: tuple[str, str], delay: float, place: Path) -> list[Ended]:
    found: dict[int, Ended] = {}

    def act(number: int) -> None:
        time.sleep(delay * number)
        found[number] = world.run(COMMANDS[pair[number]], place)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[0], found[1]]


def _inconsistent(world: World, out: Path, place: Path, start: str) -> list[str]:
    """What is wrong with a folder: going on with the run that config.yaml tells of must give that very run."""
    problems = half_written(out)
    if not (out / "config.yaml").exists():
        return problems
    kept = yaml.safe_load((out / "config.yaml").read_text())
    if (out / "cells").exists():
        on, expected = f"{SCENARIOS['compare'].words} --resume", world.undisturbed(SCENARIOS["compare"]).folder
    elif start == "generator":
        on, expected = "run {generator} --out {out} --resume", world.after(STARTS["generator"])
    else:
        run = COMMANDS["run"] if kept["seed"] == 0 else COMMANDS["run another"]
        on, expected = f"{run} --resume", world.after((run,))
    ended = world.run(on, place)
    if ended.code:
        return [*problems, f"gone on with, it ends with {ended.code}: {ended.last_words}"]
    samples = [str(path.relative_to(out)) for path in out.glob("samples*/**/*")]
    return problems + differences(out, expected, but=samples)
