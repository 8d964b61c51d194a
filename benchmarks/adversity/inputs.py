"""What is given to untrain by chance or in bad faith: recipes, calls from Python, files."""

import os
import signal
import sys
import traceback
from pathlib import Path
from random import Random
from typing import Any

from adversity.commands import Ended
from adversity.worlds import World, import_helper

SECONDS, MEMORY = 60, 12 << 30
"""What one file or one call may take: seconds, and bytes of addresses."""


def recipe(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Runs a recipe by chance: it may be refused, but nothing unforeseen may happen.

    Three of four have any values, with flags; where they are good, a file in the place of the run folder spares them
    days of work. One of four is small, and runs to its end.
    """
    seed, drawn = rng.randrange(1 << 31), import_helper("random_recipes")
    place.mkdir(parents=True)
    path, out = place / "recipe.yaml", place / "run"
    if seed % 4:
        out.touch()
        text, flags = drawn.random_recipe(Random(seed)), drawn.random_flags(Random(seed))
    else:
        text, flags = drawn.runnable_recipe(Random(seed), out), []
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    words = [flag.replace("\0", "") for flag in flags]  # no command line can hold a NUL
    ended = world.launcher.run(["run", str(path), *words, "--out", str(out)], place)
    problems = ended.failed_badly()
    if ended.code not in (0, 1, 2) and not problems:
        problems = [f"exit {ended.code}: {ended.last_words}"]
    return f"recipe {seed}, exit {ended.code}", problems


def call(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Calls the library by chance, in a process of its own."""
    return _apart(world, "try_call", rng, place)


def files(world: World, rng: Random, place: Path) -> tuple[str, list[str]]:
    """Has hostile files read, each in limited time and memory."""
    return _apart(world, "try_files", rng, place, world.every)


def _apart(world: World, function: str, rng: Random, place: Path, *more: int) -> tuple[str, list[str]]:
    seed = rng.randrange(1 << 31)
    ended = _run_apart(world, function, place, seed, *more)
    problems = [line.removeprefix("FAILS ") for line in ended.out.splitlines() if line.startswith("FAILS ")]
    if ended.code and not problems:
        problems = [f"exit {ended.code}: {ended.last_words}"]
    about = next((line for line in ended.out.splitlines() if line.startswith("ABOUT ")), f"ABOUT seed {seed}")
    return f"{about.removeprefix('ABOUT ')} ({seed})", problems


def _run_apart(world: World, function: str, place: Path, *numbers: int) -> Ended:
    given = (str(place), *numbers)
    if world.launcher.warm:
        return world.launcher.call(__name__, function, given, place, memory=MEMORY).end()
    code = f"import sys; from adversity.inputs import {function} as act; sys.exit(act(*{given!r}))"
    return world.launcher.execute([sys.executable, "-c", code], place, memory=MEMORY).end()


def try_call(place: str, seed: int) -> int:
    """Makes one call; returns 0 where it gives something or refuses with an error of untrain's."""
    from untrain.errors import UntrainError

    os.chdir(place)
    description, thunk = import_helper("random_calls").random_call(Random(seed))
    print(f"ABOUT {' '.join(str(description).split())[:200]}", flush=True)
    return _try(thunk, str(description), UntrainError)


def try_files(place: str, seed: int, every: int) -> int:
    """Reads one in so many hostile files of a seed; returns how many were read badly."""
    from untrain.errors import UntrainError

    folder = Path(place) / "files"
    folder.mkdir()
    given = import_helper("hostile_files").hostile_files(folder, seed)[::every]
    print(f"ABOUT {len(given)} files", flush=True)
    return min(100, sum(_try(reader, str(name), UntrainError) for name, reader in given))


def _try(thunk: Any, name: str, refusal: type[Exception]) -> int:
    """0 where it ends well or is refused; else prints a line."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        thunk()
    except refusal:
        return 0
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = " ".join(f"{name}: {type(error).__name__}: {error}, in {where.filename}:{where.lineno}".split())
        print(f"FAILS {told[:400]}", flush=True)
        return 1
    finally:
        signal.alarm(0)
    return 0
