"""Models asked for the same mixed samples, and judged without twins: of a run, and in Python."""

from collections.abc import Mapping

from torch import nn

from untrain.audit.finding import Audit
from untrain.audit.mixed import MixedSamples
from untrain.audit.one_model import find_one_model
from untrain.audit.one_model_card import NOT_SAYABLE, finding_of
from untrain.audit.within_classes import PERMUTATIONS
from untrain.data.streams import Stream
from untrain.domain import Domain, Told
from untrain.runs.names import ORIGINAL, RETRAINED
from untrain.types import Task

SINGLE = "single"
"""The design without twins."""


def ask_mixed(
    domain: type[Domain], module: nn.Module, task: Task, mixed: MixedSamples, retain: Stream, rate: float | None
) -> Told:
    """Asks a model for its signals of mixed samples.

    Args:
        domain: of the task.
        module: on the engine's device.
        task: prepared.
        mixed: what is asked.
        retain: what is kept, by which features are read and the model relearns.
        rate: learning rate at which a copy is trained a little; None: not known.
    """
    pool = Stream(list(mixed.batches), "pool", retain.engine, seed=retain.seed)
    return domain.ask_sets(module, task, {"pool": pool, "base": retain}, retain.engine, rate)


def judge_told(told: Mapping[str, Told], mixed: MixedSamples, *, exchangeable: bool, seed: int) -> Audit:
    """Judges models by what they told of the same mixed samples.

    Args:
        told: "original" and "retrained", "retrained-2", … where there are such models; all others are judged.
        mixed: what was asked.
        exchangeable: whether forgotten and unseen samples were drawn from one source at random.
        seed: of permutations.
    """
    references = [each.signals for name, each in told.items() if _is_reference(name)]
    found = {
        name: find_one_model(
            each.signals, mixed.forgotten, mixed.labels, references, exchangeable=exchangeable, seed=seed
        )
        for name, each in told.items()
        if not _is_reference(name)
    }
    original = found.pop(ORIGINAL, None)
    findings = {name: finding_of(name, each, original, len(references)) for name, each in found.items()}
    facts = {
        "version": 1,
        "design": SINGLE,
        "seed": seed,
        "twins": 0,
        "references": len(references),
        "pool": {"forget": int(mixed.forgotten.sum()), "unseen": int((~mixed.forgotten).sum())},
        "exchangeable": exchangeable,
        "permutations": PERMUTATIONS,
        "not_tried": ["attacks that learn from twins what forgetting looks like"],
        "not_sayable": list(NOT_SAYABLE),
        "notes": sorted({note for each in told.values() for note in each.notes}),
    }
    return Audit(facts, original, findings)


def _is_reference(name: str) -> bool:
    return name.split("-")[0] == RETRAINED
