"""What a run folder holds, read and checked as far as a report needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from untrain.errors import FolderError, UntrainError
from untrain.report.figures import Curve, Curves
from untrain.report.generator_verdict import best_first
from untrain.report.measures import GENERATORS, task_of
from untrain.report.sections import read_json, read_text
from untrain.report.tables import label, mapping, methods_of, models_of, number, sequence


@dataclass(frozen=True)
class Run:
    """What a run folder holds, read and checked as far as a report needs; what is missing is empty."""

    folder: Path
    evaluation: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Curves] = field(default_factory=dict)
    unreadable: int = 0
    """Lines of the history that could not be read, for instance the last one of a killed run."""
    config: str | None = None

    @property
    def task(self) -> str:
        """The task, which says what the measures mean."""
        return task_of(self.evaluation)

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Model name → its measures."""
        return models_of(self.evaluation)

    @property
    def methods(self) -> list[str]:
        """The models that methods made, the best first: closest to the retrained model, or as the verdict has them."""
        return best_first(self.evaluation) if self.task in GENERATORS else methods_of(self.models)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the data's order; or the prompts of the evaluation."""
        return [str(name) for name in sequence(self.evaluation.get("classes"))]

    @property
    def forgotten(self) -> list[str]:
        """What models that make images were to forget: names of classes; prompts, and labels of what they ask."""
        return [str(name) for name in sequence(self.evaluation.get("forgotten"))]

    def made(self, name: str) -> Mapping[str, Any]:
        """What the manifest says of how a model was made."""
        return mapping(mapping(self.manifest.get("models")).get(name))


def read_run(folder: Path) -> Run:
    """The files of a run folder.

    Raises:
        FolderError: if there is no such folder.
        UntrainError: if `evaluation.json` is missing, or a file that is there cannot be read.
    """
    if not folder.is_dir():
        raise FolderError(f"there is no run folder {folder}. Give the folder that `untrain run` wrote.")
    if not (folder / "evaluation.json").exists():
        raise UntrainError(
            f"{folder / 'evaluation.json'} is missing, and a report is made from it. Make it with `untrain evaluate`."
        )
    evaluation = read_json(folder / "evaluation.json", "untrain evaluate")
    if not mapping(evaluation.get("models")):
        raise UntrainError(
            f"{folder / 'evaluation.json'} holds no model: expected {{'models': {{name: {{measure: value}}}}}}. "
            "Make it again with `untrain evaluate`."
        )
    manifest = read_json(folder / "manifest.json", "untrain run") if (folder / "manifest.json").exists() else {}
    config = read_text(folder / "config.yaml") if (folder / "config.yaml").exists() else None
    history, unreadable = _read_history(folder / "history.jsonl")
    return Run(folder, evaluation, manifest, history, unreadable, config)


def _read_history(path: Path) -> tuple[dict[str, Curves], int]:
    """The curves of each run by name, line by line; a run that was resumed continues where its last part began."""
    runs: dict[str, Curves] = {}
    unreadable = 0
    if not path.exists():
        return runs, unreadable
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                    name, step = str(record["model"]), int(record["step"])
                except (ValueError, TypeError, KeyError, OverflowError):
                    unreadable += 1
                    continue
                _append(runs.setdefault(name, Curves(label(name))), step, record)
    except OSError as error:
        raise UntrainError(f"cannot read {path}: {error.strerror or error}. Give yourself the permission.") from None
    return runs, unreadable


def _append(run: Curves, step: int, record: Mapping[str, Any]) -> None:
    while run.skipped and run.skipped[-1] >= step:
        run.skipped.pop()
    if record.get("skipped") is True:
        run.skipped.append(step)
    for key, value in record.items():
        if key in ("model", "step") or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        curve = run.series.setdefault(key, Curve())
        while curve.steps and curve.steps[-1] >= step:  # a resumed run repeats the steps after its checkpoint
            curve.steps.pop()
            curve.values.pop()
        curve.steps.append(step)
        curve.values.append(float("nan") if (known := number(value)) is None else float(known))
