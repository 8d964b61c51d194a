"""What stands beside a model that forgot: what was taken out of it, how, from which weights, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from untrain.errors import DataError
from untrain.models.card import (
    base_front,
    base_name,
    card_text,
    cell,
    code,
    figure,
    how_section,
    plain,
    versions_section,
    weights_section,
)
from untrain.tasks.text_to_image.presentation import TextToImagePresentation

_BEFORE = "original"
_LOWER = ("FA", "FA5", "NR", "FD", "FID")
"""The measures of which less is better; of all others, more is."""


@dataclass(frozen=True)
class Card:
    """What a model card says of a text-to-image pipeline that forgot.

    Attributes:
        forgotten: prompt → the text that it was redirected to; None: to no text.
        retained: the prompts that were to stay.
        method: its name.
        settings: of the method, as they were resolved; numbers, texts, lists and mappings.
        parts: what was trained, by the names of `train_parts`.
        parameters: how many weights were trained.
        of: how many the noise predictor has.
        base: hub id, folder or file of the original; of a path only the last name is written down.
        base_hash: of the noise predictor's weights before, as `state_hash` gives it.
        versions: library → version.
        hash: of its weights afterwards.
        seed: of the run.
        evaluation: what evaluation.json holds; None: nothing was measured.
        entry: which of its models this one is.
        licence: of the original, as `licence_of` gives it.
    """

    forgotten: Mapping[str, str | None]
    retained: Sequence[str]
    method: str
    settings: Mapping[str, Any]
    parts: str
    parameters: int
    of: int
    base: str
    base_hash: str
    versions: Mapping[str, str]
    hash: str | None = None
    seed: int | None = None
    evaluation: Mapping[str, Any] | None = None
    entry: str = "unlearned"
    licence: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that something was forgotten, and that the evaluation knows both models."""
        if not self.forgotten:
            raise DataError("a model card needs at least one forgotten prompt.")
        known = (self.evaluation or {}).get("models", {})
        lacking = [name for name in (_BEFORE, self.entry) if self.evaluation is not None and name not in known]
        if lacking:
            raise DataError(f"the evaluation has no model {lacking[0]!r}; it has {', '.join(map(repr, known))}.")


def model_card(facts: Card) -> str:
    """A model card in Markdown, behind the YAML that model hubs read.

    Measures stand before and after, on the same prompts and seeds, with the number of images; one that could not be
    had stands with its reason.
    """
    parts = [
        f"# {base_name(facts.base)}, made to forget",
        _removed(facts),
        _how(facts),
        weights_section(facts.base, facts.base_hash, facts.hash, facts.licence, "its noise predictor's weights"),
        _measured(facts),
        _LIMITS,
        versions_section(facts.versions),
    ]
    return card_text(_front(facts), parts)


# ── the parts of a card ─────────────────────────────────────────────────────────────────────────────────────────


def _front(facts: Card) -> dict[str, Any]:
    tags = ["stable-diffusion", "text-to-image", "machine-unlearning", "concept-erasure", "untrain"]
    front = base_front(facts.base, facts.licence)
    return front | {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}


def _removed(facts: Card) -> str:
    lines = [
        f"- {code(prompt)}" + ("" if anchor is None else f", which is now to give what {code(anchor)} gives")
        for prompt, anchor in facts.forgotten.items()
    ]
    kept = [f"- {code(prompt)}" for prompt in facts.retained]
    stays = ["", "What was to stay as it was:", "", *kept] if kept else []
    return "\n".join(["## What was removed", "", "What these prompts ask for:", "", *lines, *stays])


def _how(facts: Card) -> str:
    share = 100 * facts.parameters / max(facts.of, 1)
    trained = f"{facts.parameters:,} of {facts.of:,} weights of the noise predictor ({share:.3g} %)"
    clocks = (facts.evaluation or {}).get("models", {}).get(facts.entry, {})
    return how_section(facts.method, f"on {code(facts.parts)}: {trained}", facts.settings, facts.seed, clocks)


def _measured(facts: Card) -> str:
    if facts.evaluation is None:
        return "## What was measured\n\nNothing was measured. How much of the concept is left is not known."
    before, after = (facts.evaluation["models"][name] for name in (_BEFORE, facts.entry))
    measures = [each for each in TextToImagePresentation.measures if each.key not in ("steps", "seconds")]
    known = [each.key for each in measures if each.key in before or each.key in after]
    rows = [
        f"| {each.key} | {each.words}{', %' * (each.unit == '%')} | {'lower' if each.key in _LOWER else 'higher'} | "
        f"{figure(before.get(each.key))} | {figure(after.get(each.key))} |"
        for each in measures
        if before.get(each.key) is not None or after.get(each.key) is not None
    ]
    titles = ["| Measure | | better | before | after |", "|---|---|---|--:|--:|"]
    table = [*titles, *rows] if rows else ["No measure could be had."]
    head = ["## What was measured", "", _setting(facts.evaluation, after), ""]
    return "\n".join([*head, *table, *_lacking(before, after, known), *_by_part(before, after)])


def _setting(evaluation: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """On what was measured, and by which networks."""
    samples, detector, sampler = (after.get("samples") or {}, *map(evaluation.get, ("detector", "sampler")))
    said = [
        f"{samples.get('forgotten', 'An unknown number of')} images of forgotten and "
        f"{samples.get('retained', 'an unknown number')} of retained prompts, before and after on the same prompts "
        "and seeds."
    ]
    if detector:
        threshold = detector.get("threshold")
        accuracy = detector.get("test_accuracy") or {}
        known = [f"at the threshold {threshold}"] if threshold is not None else []
        known += [f"{figure(value)} % right on test images ({plain(label)})" for label, value in accuracy.items()]
        said.append(f"Detector: {plain(detector.get('name'))}{', ' if known else ''}{', '.join(known)}.")
    if sampler:
        scale = float(sampler.get("guidance_scale") or 1)
        said.append(f"Sampler: DDIM, {sampler.get('steps')} steps, η = {sampler.get('eta')}, guidance scale {scale:g}.")
    networks = [f"{name}: {plain(evaluation[key])}" for key, name in _NETWORKS.items() if evaluation.get(key)]
    return " ".join(said + [f"{'; '.join(networks)}."] * bool(networks))


_NETWORKS = {"features": "Features of the Fréchet distance", "clip": "Network of the CLIP score"}


def _lacking(before: Mapping[str, Any], after: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """The measures that one of the two models lacks, with the reason."""
    lines = []
    for name in known:
        for model, values in (("before", before), ("after", after)):
            if values.get(name) is None:
                reason = (values.get("missing") or {}).get(name, "no reason was recorded")
                lines.append(f"- {name} {model}: {plain(reason)}")
    return ["", "Not measured:", "", *lines] if lines else []


def _by_part(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    counts = [values.get("by_part") or {} for values in (before, after)]
    parts = list(dict.fromkeys([*counts[0], *counts[1]]))
    rows = [f"| {cell(part)} | {counts[0].get(part, 0)} | {counts[1].get(part, 0)} |" for part in parts]
    head = ["", "Images of forgotten prompts by what was found in them:", "", "| Part | before | after |"]
    return [*head, "|---|--:|--:|", *rows] if rows else []


_LIMITS = """## Limits

- A detector sees what it sees: an image in which it finds nothing may show the concept all the same, and the other way
  round.
- Only the prompts that are named or counted here were tried. Other words, other languages, prompts that were searched
  for, other samplers, images as a starting point and further training may still bring the concept back.
- What is forgotten here is not forgotten elsewhere: the original, copies of it and what was trained from it are as
  they were. Text encoder and VAE are the original's.
- Other concepts can have changed too. Try the prompts that matter to you before you use the model.
- This is no proof that training data was deleted, and no filter: use it beside other safeguards, not in their place."""
