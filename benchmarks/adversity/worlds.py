"""What trials start from: recipes that take seconds, commands on them, and what these do when nobody disturbs them."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from adversity.commands import Ended, Launcher

TESTS = Path(__file__).parents[2] / "tests"
OUT = "run"
"""What the folder of a run is called in a trial's own folder; the same everywhere, as reports may tell it."""

RECIPES = {
    "classes": ("command_line", "compare: {seeds: [0]}\ncheckpoint_every: 0.05\ndevice: cpu\n"),
    "generator": ("tiny_recipes", "checkpoint_every: 0.05\n"),
}
"""Of each kind, the module of the tests' helpers whose RECIPE it is, and further fields."""
AUDITED = """\
data: {name: digits, limit: 400, test_limit: 100}
forget: {fraction: 0.2, holdout: 0.1}
model: {name: small-cnn, options: {width: 4}}
train: {steps: 40}
references: 0
methods: {finetune: {steps: 10}}
checkpoint_every: 0.05
device: cpu
"""
"""Of a run that forgets as many samples as an audit takes."""
PROMPTS = "prompt,case_number,evaluation_seed\na red circle,0,0\na red square,1,1\n"


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: what trials call it.
        words: the command; {classes}, {generator}, {text} and {audited} are recipes, {out} is the run folder.
        before: commands that make the folder which it starts from.
        again: the command by which a user goes on with it; None: the same with --resume.
        processes: as how many it runs.
        made_in: where its product lies, in the run folder.
    """

    name: str
    words: str
    before: tuple[str, ...] = ()
    again: str | None = None
    processes: int = 1

    @property
    def resumed(self) -> str:
        """How a user goes on."""
        return f"{self.words} --resume" if self.again is None else self.again


_RUN, _COMPARE = "run {classes} --out {out}", "compare {classes} --out {out} --references 2 --jobs 2"
_AUDIT = "audit {out} --twins 4 --references 1"
_SAMPLE, _REPORT = "sample {out} --count 2 --form folder", "report {out}"
SCENARIOS = {
    each.name: each
    for each in (
        Scenario("run", _RUN),
        Scenario("run-generator", "run {generator} --out {out}"),
        Scenario("run-text", "run {text} --out {out}"),
        Scenario("train", "train {classes} --out {out}"),
        Scenario("unlearn", "unlearn {classes} --out {out}", ("train {classes} --out {out}",)),
        Scenario("evaluate", "evaluate {classes} --out {out}", (_RUN,)),
        Scenario("compare", _COMPARE),
        Scenario("sample", _SAMPLE, ("run {generator} --out {out}",), _SAMPLE),
        Scenario("report", _REPORT, (_RUN,), _REPORT),
        Scenario("audit", _AUDIT, ("run {audited} --out {out}",)),
        Scenario("two-processes", _RUN, processes=2),
    )
}


@dataclass(frozen=True)
class Undisturbed:
    """What a command does when nothing happens to it."""

    folder: Path
    seconds: float


@dataclass
class World:
    """Where trials happen.

    Attributes:
        folder: holds the recipes, what undisturbed commands made, and a folder for each trial.
        launcher: how commands are started.
        scenarios: the commands that trials choose from.
        every: of hostile files, one in so many is read.
    """

    folder: Path
    launcher: Launcher
    scenarios: Sequence[str] = tuple(SCENARIOS)
    every: int = 1
    _made: dict[Hashable, Any] = field(default_factory=dict)
    _count: int = 0
    _lock: Any = field(default_factory=threading.RLock)

    def choose(self, rng: Random, but: Sequence[str] = ()) -> Scenario:
        """A scenario by chance."""
        return SCENARIOS[rng.choice([name for name in self.scenarios if name not in but])]

    def words(self, command: str, out: Path) -> list[str]:
        """A command's words."""
        recipes = {
            each: str(self.recipe(each))
            for each in ("classes", "generator", "text", "audited")
            if f"{{{each}}}" in command
        }
        prompts = {"prompts": self.folder / "prompts.csv"}
        return [word.format(**recipes, **prompts, out=out) for word in command.split()]

    def run(self, command: str, place: Path, **how: int) -> Ended:
        """Runs a command on the run folder of a trial's folder."""
        return self.launcher.run(self.words(command, place / OUT), place, **how)

    def once(self, key: Hashable, make: Callable[[Path], Any]) -> Any:
        """What several trials share: made with the first use, in a folder of its own."""
        with self._lock:
            if key not in self._made:
                self._count += 1  # what is made may itself need what is made once
                self._made[key] = make(self.folder / f"shared-{self._count}")
            return self._made[key]

    def recipe(self, kind: str) -> Path:
        """A recipe's file."""
        return self.once(("recipe", kind), lambda place: self._write_recipe(kind))

    def _write_recipe(self, kind: str) -> Path:
        path = self.folder / f"{kind}.yaml"
        (self.folder / "prompts.csv").write_text(PROMPTS)
        if kind == "text":  # a pipeline is made for it, in a process of its own
            code = "import sys, pathlib; from helpers.text_recipes import save_text_recipe as save"
            code += "; path = save(pathlib.Path(sys.argv[1])); path.rename(sys.argv[2])"
            (self.folder / "pipeline").mkdir()
            path_of_python = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
            command = [sys.executable, "-c", code, str(self.folder / "pipeline"), str(path)]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path_of_python})
            path.write_text(path.read_text() + "checkpoint_every: 0.05\n")
        elif kind == "audited":
            path.write_text(AUDITED)
        else:
            module, more = RECIPES[kind]
            path.write_text(import_helper(module).RECIPE + more)
        return path

    def start(self, scenario: Scenario) -> Path | None:
        """The folder that a command starts from; None: none."""
        if not scenario.before:
            return None
        return self.after(scenario.before)

    def after(self, commands: Sequence[str], processes: int = 1) -> Path:
        """The run folder after these commands, one after the other; not to be changed."""
        return self._after(tuple(commands), processes).folder

    def undisturbed(self, scenario: Scenario) -> Undisturbed:
        """What a command makes, and how long it takes."""
        return self._after((*scenario.before, scenario.words), scenario.processes)

    def _after(self, commands: tuple[str, ...], processes: int) -> Undisturbed:
        def make(place: Path) -> Undisturbed:
            if commands[:-1]:
                shutil.copytree(self.after(commands[:-1]), place / OUT)
            ended = self.run(commands[-1], place, processes=processes)
            if ended.code:
                raise RuntimeError(f"undisturbed, {commands[-1]} ended with {ended.code}: {ended.last_words}")
            return Undisturbed(place / OUT, ended.seconds)

        return self.once((commands, processes), make)

    def copy(self, folder: Path | None, place: Path) -> Path:
        """Lays a copy of a run folder, or nothing, into a trial's folder; returns where the run folder is."""
        place.mkdir(parents=True, exist_ok=True)
        if folder is not None:
            shutil.copytree(folder, place / OUT, symlinks=True)
        return place / OUT


def import_helper(name: str) -> Any:
    """Imports a module of the tests' helpers."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return import_module(f"helpers.{name}")
