"""The search for a method's settings: the same number of trials for each, judged without a retrained model.

The search works on a run of its own: another seed, and so another split and another original than those that are
compared. It never looks at test data. A trial is judged by how the unlearned model treats the forget set, compared
with how the *original* treats data that it never saw, since that is how a retrained model would treat the forget set.
One draw of a random forget set says little: of some hundred samples, the accuracy alone is uncertain by a point. So a
trial unlearns two such sets in turn, each from the same original.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from untrain.data.checks import check_sets
from untrain.domain import SearchObjective
from untrain.engine import seed_of
from untrain.errors import SettingError, StaleFile, UnlearningWarning, UntrainError
from untrain.io import hash_json
from untrain.methods.base import Choice, Method, Optimizer, Space
from untrain.methods.loop import run
from untrain.models.prepare import prepare_task
from untrain.models.subject import Subject
from untrain.runs import stages
from untrain.runs.recipe import Recipe
from untrain.runs.spaces import is_integer, space_of, with_settings
from untrain.runs.stages import Experiment
from untrain.sealed import read_sealed, write_sealed
from untrain.types import Task

WORST = 100.0
"""What the sampler is told of a trial that failed: the largest distance there can be, in points."""


def search_settings(experiment: Experiment, recipe: Recipe, start: nn.Module, entry: str, own: float) -> None:
    """Tries settings of one entry, its own first, and keeps every trial; goes on where an earlier search stopped.

    Args:
        experiment: the search's run.
        recipe: the comparison.
        start: that run's original.
        entry: which method.
        own: the part of the held-out data that methods are given, in [0, 1).

    Raises:
        UntrainError: if no trial worked.
    """
    objectives, method = _objectives(experiment, own), recipe.methods[entry]
    mark, path = _fingerprint(experiment, objectives, recipe, start, entry), _path(experiment.folder.path, entry)
    trials = _read_trials(path, mark)
    sets = experiment.domain.sets_for(method, objectives[0].division)
    check_sets({name: stream.data for name, stream in sets.items()}, sets)
    prepare_task(experiment.domain.task, start, sets)
    space, wanted = space_of(recipe, entry), recipe.compare.trials
    before = [objective.observe(start) for objective in objectives] if len(trials) < wanted else []
    while len(trials) < wanted:
        seed = seed_of(experiment.recipe.seed, entry, len(trials))
        settings = suggest(method, space, trials, seed, wanted) if trials else {}
        trials.append(_try(experiment, objectives, start, method, settings, space, before))
        if experiment.engine.is_main:
            write_sealed(path, {"mark": mark, "method": method.name, "trials": trials, "best": best_trial(trials)})
        experiment.say(f"{entry}: trial {len(trials)} of {wanted}: {trials[-1]['criterion']}")
    experiment.engine.wait()
    if best_trial(trials) is None:
        raise UntrainError(f"none of {wanted} settings of {entry} worked; the first failed: {trials[0]['error']}")


def _objectives(experiment: Experiment, own: float) -> Sequence[SearchObjective]:
    return experiment.domain.objectives(experiment.division, own, stages.train_helpers(experiment))


def _try(
    experiment: Experiment,
    objectives: Sequence[SearchObjective],
    start: nn.Module,
    method: Method,
    settings: Mapping[str, Any],
    space: Mapping[str, Space],
    before: Sequence[Any],
) -> dict[str, Any]:
    """One run of a method on each forget set.

    One that fails, because it diverged or its settings contradict each other, counts too.
    """
    began = time.perf_counter()
    error, value = None, None
    try:
        tried, values = with_settings(method, settings, fitting_optimizer(start, experiment.domain.task)), []
        for objective, original in zip(objectives, before, strict=True):
            sets = experiment.domain.sets_for(method, objective.division)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnlearningWarning)  # a trial may fall short: its criterion says how far
                done = run(tried, stages.unlearning(experiment, start, sets, tried), experiment.engine)
            values.append(objective.score(objective.observe(done.state.module), original))
            settings = {name: settings.get(name, _setting(done.method, name)) for name in space}
        value = sum(values) / len(values)
    except UntrainError as failure:
        error = str(failure)
    seconds = time.perf_counter() - began
    return {"settings": dict(settings), "criterion": value, "seconds": seconds, "error": error}


def _setting(method: Method, name: str) -> Any:
    """A setting's value by its dotted name."""
    value: Any = method
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def fitting_optimizer(start: nn.Module, task: Task) -> Optimizer:
    """The optimiser that methods take for this model where none is given."""
    return Optimizer(**Subject(start).defaults(task)["optimizer"])


def best_trial(trials: Sequence[Mapping[str, Any]]) -> int | None:
    """The trial with the lowest criterion, the first of equals; None where none worked."""
    worked = [i for i, trial in enumerate(trials) if trial["criterion"] is not None]
    return min(worked, key=lambda i: trials[i]["criterion"], default=None)


def suggest(
    method: Method, space: Mapping[str, Space], trials: Sequence[Mapping[str, Any]], seed: int, wanted: int
) -> dict[str, Any]:
    """What to try next: a pure function of the trials so far and the seed.

    The sampler is Optuna's TPE (Bergstra et al., *Algorithms for hyper-parameter optimization*, NeurIPS 2011); the
    first third of the trials, and at least three, are its random start. The method's own settings take part where
    they lie within the space; a trial that failed has the worst value there can be.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {name: _distribution(method, name, space[name]) for name in sorted(space)}
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=max(3, wanted // 3))
    study = optuna.create_study(sampler=sampler)
    for trial in trials:
        params = {name: _coded(space[name], trial["settings"].get(name)) for name in kinds}
        if all(value is not None for value in params.values()):
            value = WORST if trial["criterion"] is None else trial["criterion"]
            study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=value))
    asked = study.ask(kinds).params
    chosen = {name: (space[name], asked[name]) for name in space}
    return {name: kind.values[value] if isinstance(kind, Choice) else value for name, (kind, value) in chosen.items()}


def _distribution(method: Method, name: str, space: Space) -> Any:
    """A setting's space as Optuna has it; choices are numbered, since theirs must be plain values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(space, Choice):
        return CategoricalDistribution(range(len(space.values)))
    if is_integer(method, name):
        return IntDistribution(round(space.low), round(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _coded(space: Space, value: Any) -> Any:
    """A setting's value as `_distribution` has it; None where it lies outside."""
    if isinstance(space, Choice):
        return space.values.index(value) if value in space.values else None
    return value if isinstance(value, (int, float)) and space.low <= value <= space.high else None


def check_optuna() -> None:
    """A search needs Optuna.

    Raises:
        SettingError: says what to install.
    """
    try:
        import optuna  # noqa: F401, whether it is there
    except ImportError as error:
        raise SettingError(
            "compare.trials: the search needs Optuna: pip install 'untrain[compare]', or set compare.trials to 0."
        ) from error


def _path(folder: Path, entry: str) -> Path:
    return folder / f"{entry}.trials.json"


def _fingerprint(
    experiment: Experiment, objectives: Sequence[SearchObjective], recipe: Recipe, start: nn.Module, entry: str
) -> str:
    """Fingerprints all that a search's trials depend on."""
    sets = experiment.domain.sets_for(recipe.methods[entry], objectives[0].division)
    problem = stages.unlearning(experiment, start, sets, recipe.methods[entry])
    space = {name: {type(kind).__name__: asdict(kind)} for name, kind in space_of(recipe, entry).items()}
    judged = [objective.facts() for objective in objectives]
    trial = experiment.folder.fingerprint(recipe.methods[entry], problem)
    return hash_json([trial, space, judged, recipe.compare.trials])


def _read_trials(path: Path, mark: str) -> list[dict[str, Any]]:
    """The trials that were run already.

    Raises:
        StaleFile: if they were run on other inputs, or the file is damaged.
    """
    if not path.exists():
        return []
    content = _read(path)
    if content["mark"] != mark:
        raise StaleFile(f"{path} holds a search over other data, weights or settings. Remove it to search again.")
    return list(content["trials"])


def _read(path: Path) -> dict[str, Any]:
    content = read_sealed(path, "Remove it to search again.") or {}
    lacking = [name for name in ("mark", "method", "trials", "best") if name not in content]
    if lacking:
        raise StaleFile(f"{path} cannot be read: it lacks {', '.join(lacking)}. Remove it to search again.")
    return content


def is_finished(experiment: Experiment, recipe: Recipe, start: nn.Module, entry: str, own: float) -> bool:
    """Returns whether an entry's search is over; one over other inputs is refused as by `search_settings`."""
    path = _path(experiment.folder.path, entry)
    if not path.exists():
        return False
    trials = _read_trials(path, _fingerprint(experiment, _objectives(experiment, own), recipe, start, entry))
    return len(trials) == recipe.compare.trials and best_trial(trials) is not None


def read_search(folder: Path, entry: str) -> dict[str, Any] | None:
    """An entry's trials and the number of the best; None where there is no trial."""
    path = _path(folder, entry)
    if not path.exists():
        return None
    content = _read(path)
    return {"trials": content["trials"], "best": content["best"]}


def chosen_settings(folder: Path, recipe: Recipe, entry: str) -> dict[str, Any] | None:
    """The settings that a search chose, by dotted name; {} where its own were best; None where it is not over."""
    found = read_search(folder, entry)
    if found is None or len(found["trials"]) < recipe.compare.trials or found["best"] is None:
        return None
    return {} if found["best"] == 0 else dict(found["trials"][found["best"]]["settings"])
