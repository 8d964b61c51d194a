"""Tasks: what a model was trained on, as per-sample functions. One file a task."""

from untrain.errors import SettingError, lookup
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.classification.task import Classification
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Task

TASKS: dict[str, type] = {
    "classification": Classification,
    "class-diffusion": ClassDiffusion,
    "text-to-image": TextToImage,
}
"""Task name → class; its fields are the task's settings."""


def resolve(task: str | Task) -> Task:
    """The task of that name with default settings, or the task object itself."""
    if isinstance(task, str):
        return lookup("task", TASKS, task)()
    if not isinstance(task, Task):
        raise SettingError(f"task must be a name or an object with the functions of untrain.Task, not {task!r}.")
    return task
