"""Teacher of the redirect loss: the current model, or a frozen copy of the original."""

from __future__ import annotations

from typing import Literal

from untrain.errors import SettingError
from untrain.lazy import nn
from untrain.methods.base import State
from untrain.methods.forgetting import frozen
from untrain.types import Task

Teacher = Literal["current", "original"]
"""The current model costs no memory, and its target moves with it; the original costs a copy of what is trained, and
its target stays where it was."""


def check_teacher(teacher: Teacher, task: Task) -> None:
    """The original can be asked only where the task's redirect loss asks anyone.

    Raises:
        SettingError: if it does not.
    """
    if teacher == "original" and not getattr(task, "asks_teacher", False):
        raise SettingError(
            f"teacher='original' has no meaning on task {type(task).__name__}: it redirects samples to labels, and "
            "asks no teacher. Leave the setting out."
        )


def begin_teacher(state: State, teacher: Teacher) -> None:
    """Keeps the model as it is now, if it is to be asked later."""
    if teacher == "original" and "original" not in state.frozen:
        state.frozen["original"] = frozen(state.module)


def teacher_of(state: State, teacher: Teacher) -> nn.Module:
    """The module that says what a redirected sample should be predicted as."""
    return state.frozen["original"] if teacher == "original" else state.module
