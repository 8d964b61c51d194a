"""A hostile and an unlucky world: what becomes of runs that are killed, damaged, crowded, or given nonsense.

    python benchmarks/chaos.py                                # every kind; an hour or two on two cores
    python benchmarks/chaos.py kills flips --times 20 --seed 7
    python benchmarks/chaos.py --only kills:13 --keep trials  # one trial again, and its folder kept

Everything goes through the command line and the files of run folders; recipes are tiny, so that a command takes as long
as loading its libraries. A trial is told by its kind and seed, and always does the same, at the same share of the time
that an undisturbed command takes. The table of README.md is what the first command prints. Exit code 1: a trial failed.

kills: a command that writes gets SIGKILL, SIGTERM, SIGINT or SIGHUP with all its processes, up to three times, and is
    gone on with: it must end in the same bits and numbers as one that was left alone, with nothing left over.
disks: it has a small disk (with root, on Linux; else only limits), or files may not grow beyond a limit: it ends, or
    refuses and names a file of the folder; nothing is half-written, and with space again it ends as one left alone. Or
    its folder is removed: then it says so, and nothing is written into a new one.
flips: one bit of one file of a run folder is flipped, and a command reads the folder: it must name this very file, or
    end with the numbers and weights of a whole folder.
pairs: two commands at once in one folder: what comes second is refused, or finds a run that is finished; going on with
    what the folder holds must give an undisturbed run.
recipes, calls, files: by chance and in bad faith, from the tests' helpers: done or refused, never an unforeseen error.
threads: the same run again on one thread is the same, bit for bit; on two threads it is compared and only told.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from adversity import disks, flips, inputs, kills, pairs, threads
from adversity.commands import Launcher
from adversity.worlds import SCENARIOS, World


@dataclass(frozen=True)
class Kind:
    """A kind of adversity.

    Attributes:
        attempt: makes one trial in a folder of its own; returns what it did, and what went wrong.
        times: trials, where nothing is said.
    """

    attempt: Callable[[World, Random, Path], tuple[str, list[str]]]
    times: int


KINDS = {
    "kills": Kind(kills.kill, 100),
    "disks": Kind(disks.fill, 100),
    "flips": Kind(flips.flip, 100),
    "pairs": Kind(pairs.meet, 100),
    "recipes": Kind(inputs.recipe, 1000),
    "calls": Kind(inputs.call, 1000),
    "files": Kind(inputs.files, 2),
    "threads": Kind(threads.repeat, 6),
}


@dataclass(frozen=True)
class Trial:
    """One trial and what came of it.

    Attributes:
        about: what was done.
        problems: what went wrong; empty where nothing did.
    """

    kind: str
    seed: int
    about: str
    problems: Sequence[str]
    seconds: float

    @property
    def name(self) -> str:
        """By which it can be made again."""
        return f"{self.kind}:{self.seed}"


def attempt(world: World, kind: str, seed: int, keep: bool = False) -> Trial:
    """Makes one trial; an error of the harness itself is a failure too."""
    place, began = world.folder / f"{kind}-{seed}", time.monotonic()
    try:
        about, problems = KINDS[kind].attempt(world, Random(f"{kind}:{seed}"), place)
    except Exception:
        about, problems = "the harness failed", [" ".join(traceback.format_exc().split())[-500:]]
    if not (problems and keep):
        shutil.rmtree(place, ignore_errors=True)
    return Trial(kind, seed, about, tuple(dict.fromkeys(problems)), time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--times", type=int, default=None, help="trials of each kind; default: the kind's own")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial of each kind; the others count on")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND:SEED", help="these trials alone")
    parser.add_argument(
        "--scenarios", nargs="+", default=[*SCENARIOS], choices=[*SCENARIOS], help="commands to choose from"
    )
    parser.add_argument("--untrain", default=None, metavar="PATH", help="the command; default: this Python's module")
    parser.add_argument("--jobs", type=int, default=2, help="trials side by side, each on one thread")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="failed trials' folders stay there")
    parser.add_argument("--warm", action="store_true", help="fork commands off a process that has imported everything")
    arguments = parser.parse_args()
    for kind in (*arguments.kinds, *(each.partition(":")[0] for each in arguments.only)):
        if kind not in KINDS:
            parser.error(f"unknown kind {kind!r}; known: {', '.join(KINDS)}.")
    if arguments.warm and arguments.untrain:
        parser.error("--warm imports this Python's untrain; leave out --untrain.")
    asked = [(kind, int(seed)) for kind, _, seed in (each.partition(":") for each in arguments.only)]
    for kind in arguments.kinds or ([] if asked else KINDS):
        times = KINDS[kind].times if arguments.times is None else arguments.times
        asked += [(kind, arguments.seed + number) for number in range(times)]
    command = {} if arguments.untrain is None else {"untrain": (arguments.untrain,)}
    launcher = Launcher(**command, warm=arguments.warm)
    with tempfile.TemporaryDirectory(prefix="untrain-chaos-") as temporary:
        folder = (arguments.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder, launcher, arguments.scenarios)
        trials = run_trials(world, asked, arguments.jobs, keep=arguments.keep is not None)
    print(table(trials))
    failed = [trial for trial in trials if trial.problems]
    print(failures(failed), end="")
    raise SystemExit(bool(failed))


def run_trials(world: World, asked: Sequence[tuple[str, int]], jobs: int, keep: bool) -> list[Trial]:
    """Makes trials side by side; each is told on stderr when it is over."""

    def act(one: tuple[str, int]) -> Trial:
        trial = attempt(world, *one, keep=keep)
        state = "FAILS" if trial.problems else "holds"
        told = f"{state} {trial.name} ({trial.seconds:.0f} s) {'; '.join((trial.about, *trial.problems))}"
        print(told, file=sys.stderr, flush=True)
        return trial

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(act, asked))


def table(trials: Sequence[Trial]) -> str:
    """A row for each kind, as Markdown."""
    rows = ["| kind | trials | failed | seconds |", "|---|---|---|---|"]
    for kind in dict.fromkeys(trial.kind for trial in trials):
        those = [trial for trial in trials if trial.kind == kind]
        failed = sum(bool(trial.problems) for trial in those)
        rows.append(f"| {kind} | {len(those)} | {failed} | {sum(trial.seconds for trial in those):.0f} |")
    return "\n".join(rows)


def failures(failed: Sequence[Trial]) -> str:
    """A line for each failed trial."""
    return "".join(f"{trial.name}: {trial.about}: {'; '.join(trial.problems)}\n" for trial in failed)


if __name__ == "__main__":
    main()
