"""`untrain sample`: which task's models a source holds, and its function called with what the command line gives."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from untrain import registry
from untrain.errors import SettingError
from untrain.permissions import NONE, Permissions
from untrain.runs.flags import arguments, function_help, takes_permissions
from untrain.runs.models import is_run, task_name
from untrain.runs.recipe import task_entry
from untrain.settings import names_code

COMMAND = "untrain sample"


def sample_command(words: Sequence[str], permissions: Permissions = NONE) -> Path | None:
    """Runs `untrain sample SOURCE [--flag value …]`; returns what was written.

    Args:
        words: what follows the command.
        permissions: what the person at the keyboard allows.

    Raises:
        UntrainError: what is wrong with a flag, the source or the place to write to.
    """
    words, task = _take_task(words)
    samplers = _samplers()
    if any(word in ("-h", "--help") for word in words):
        chosen = {name: each for name, each in samplers.items() if task in (None, name)} or samplers
        print("\n".join(function_help(sampler, COMMAND) for sampler in chosen.values()))
        return None
    if not words or words[0].startswith("--"):
        raise SettingError(f"give a SOURCE: the folder of a run, or a model that was saved. See {COMMAND} --help.")
    sampler = _choose(Path(words[0]), words[1:], task, samplers)
    given = arguments(sampler, words, COMMAND)
    return sampler(**given, **({"permissions": permissions} if takes_permissions(sampler) else {}))


def _take_task(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words without `--task NAME`, and that name."""
    rest = list(words)
    for i, word in enumerate(rest):
        if word == "--task" and i + 1 < len(rest):
            return rest[:i] + rest[i + 2 :], rest[i + 1]
        if word.startswith("--task="):
            return rest[:i] + rest[i + 1 :], word.partition("=")[2]
    return rest, None


def _samplers() -> Mapping[str, Callable[..., Path]]:
    """Task → what makes its samples."""
    found = {}
    for name in registry.names():
        with suppress(SettingError):  # of a distribution that is broken; whoever asks for it by name hears why
            found[name] = registry.entry(name).find_sampler()
    return {name: sampler for name, sampler in found.items() if sampler is not None}


def _choose(
    source: Path, words: Sequence[str], task: str | None, samplers: Mapping[str, Callable[..., Path]]
) -> Callable[..., Path]:
    """The function of the source's task: what the user or the run says, else by what the flags or the source tell."""
    if task is None and is_run(source):
        task = task_name(source)
        if names_code(task):
            raise SettingError(f"{source} says that its task is code, {task!r}: give it yourself, --task {task}.")
    if task is not None:
        sampler = task_entry(task).find_sampler()
        if sampler is None:
            raise SettingError(f"{source} is of task {task}, whose models generate nothing to sample.")
        return sampler
    known = [name for name in samplers if _takes(samplers[name], words)]
    if len(known) != 1:
        known = [name for name in samplers if registry.domain(name).recognises(source)]
    if not known:
        said = ", ".join(samplers)
        raise SettingError(
            f"{source} is neither a run folder nor a saved model that a task knows ({said}). Check the path, or say "
            "which task it is of with --task NAME."
        )
    return samplers[known[0]]


def _takes(sampler: Any, words: Sequence[str]) -> bool:
    """Whether a task's function has all the flags that are given, and they give all that it needs."""
    try:
        arguments(sampler, ["source", *words], COMMAND)
    except SettingError:
        return False
    return True
