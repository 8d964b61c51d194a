"""The audit of one model in Python: what a user hands over, asked and judged without twins."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from untrain import registry
from untrain.audit.finding import Audit
from untrain.audit.mixed import check_unseen, mix_samples
from untrain.audit.single import ask_mixed, judge_told
from untrain.audit.twins import relearning_rate
from untrain.data.batches import check_given
from untrain.data.streams import Stream
from untrain.domain import Domain, check_module
from untrain.engine import Engine, Precision, on_device
from untrain.errors import DataError, SettingError
from untrain.models.prepare import prepare_task
from untrain.runs.names import ORIGINAL, RETRAINED, numbered
from untrain.types import Task

MOST_REFERENCES = 4
NAME = "model"
"""What the user's model is called in the audit."""
BATCH = 128
"""Samples of a batch of the retain set, by which a model relearns."""


def audit_model(
    model: Any,
    sets: Mapping[str, Any],
    *,
    original: Any,
    references: Sequence[Any],
    exchangeable: bool,
    task: str | Task,
    peak_lr: float | None,
    seed: int,
    device: str | torch.device | None,
    precision: Precision,
    workers: int,
) -> Audit:
    """Audits one model; arguments as of `untrain.audit`.

    Args:
        sets: "forget", "unseen" and "retain".

    Raises:
        UntrainError: what cannot be audited, and why.
    """
    _check_sets(sets)
    if len(references) > MOST_REFERENCES:
        raise SettingError(f"references holds {len(references)} models: give at most {MOST_REFERENCES}.")
    engine, domain, resolved = Engine.start(device, precision), registry.domain_of(task), registry.resolve(task)
    user = domain.user_model(model, resolved, named=isinstance(task, str))
    models = {NAME: user.module, **_others(domain, resolved, original, references)}
    streams = {name: Stream(data, name, engine, BATCH, seed, workers) for name, data in sets.items()}
    check_unseen(sets, streams)
    with on_device(engine.device, *models.values()):
        prepared = prepare_task(user.task, user.module, streams)
        mixed = mix_samples(streams["forget"], streams["unseen"], prepared, seed)
        rate = relearning_rate(peak_lr)
        kept = streams["retain"]
        told = {name: ask_mixed(domain, each, prepared, mixed, kept, rate) for name, each in models.items()}
    return judge_told(told, mixed, exchangeable=exchangeable, seed=seed)


def _check_sets(sets: Mapping[str, Any]) -> None:
    """Refuses a set that is not there, or that no batches can be cut from."""
    for name, data in sets.items():
        if data is None:
            raise DataError(
                f"the audit of a model needs {name}=: a data set, a DataLoader, or a list of ready batches. forget is "
                "what was to be forgotten, unseen what no method and no training was given, retain what was kept."
            )
        check_given(data, name)


def _others(domain: type[Domain], task: Task, original: Any, references: Sequence[Any]) -> dict[str, nn.Module]:
    """The original and the references as modules, by name."""
    given = {} if original is None else {ORIGINAL: original}
    given |= dict(zip(numbered(RETRAINED, len(references)), references, strict=True))
    return {name: check_module(domain.user_model(each, task).module, name) for name, each in given.items()}
