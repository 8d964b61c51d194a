"""What stands beside a model that forgot: what was taken out of it, how, from which weights, and what was measured."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from untrain.errors import DataError
from untrain.reading import lies_in
from untrain.tasks.text_to_image.presentation import TextToImagePresentation

CARD = "README.md"
"""The name of a model card in its folder."""

_HUB_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
_BEFORE = "original"
_LOWER = ("FA", "FA5", "NR", "FD", "FID")
"""The measures of which less is better; of all others, more is."""
_OFFERED = ("license", "license_name", "license_link")


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
        f"---\n{yaml.safe_dump(_front(facts), sort_keys=False, allow_unicode=True)}---",
        f"# {_name(facts.base)}, made to forget",
        _removed(facts),
        _how(facts),
        _weights(facts),
        _measured(facts),
        _LIMITS,
        _versions(facts),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def licence_of(source: str | Path) -> dict[str, str]:
    """What a folder says of its licence: `license`, `license_name` and `license_link` as model hubs call them.

    They are read off its model card; of a folder without one, a file LICENSE is pointed at. Empty where neither says
    anything, and of single files.
    """
    folder = Path(source)
    said = _front_of(folder / CARD) if lies_in(folder / CARD, folder) else {}
    found = {key: str(said[key]) for key in _OFFERED if isinstance(said.get(key), str)}
    if "license" in found:
        return found
    files = sorted(path.name for path in folder.glob("LICENSE*")) if folder.is_dir() else []
    return {"license": "other", "license_name": "of-the-original", "license_link": files[0]} if files else {}


def _front_of(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        said = yaml.safe_load(found[1]) if found else None
    except (OSError, yaml.YAMLError):  # a card that cannot be read says nothing of a licence
        return {}
    return said if isinstance(said, Mapping) else {}


# ── the parts of a card ─────────────────────────────────────────────────────────────────────────────────────────


def _front(facts: Card) -> dict[str, Any]:
    front: dict[str, Any] = {key: facts.licence[key] for key in _OFFERED if key in facts.licence}
    if _is_hub_id(facts.base):
        front |= {"base_model": facts.base, "base_model_relation": "finetune"}
    tags = ["stable-diffusion", "text-to-image", "machine-unlearning", "concept-erasure", "untrain"]
    return front | {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}


def _is_hub_id(base: str) -> bool:
    return bool(re.fullmatch(_HUB_ID, base)) and not Path(base).exists()


def _name(base: str) -> str:
    return _plain(base if _is_hub_id(base) else Path(base).name or base)


def _removed(facts: Card) -> str:
    lines = [
        f"- {_code(prompt)}" + ("" if anchor is None else f", which is now to give what {_code(anchor)} gives")
        for prompt, anchor in facts.forgotten.items()
    ]
    kept = [f"- {_code(prompt)}" for prompt in facts.retained]
    stays = ["", "What was to stay as it was:", "", *kept] if kept else []
    return "\n".join(["## What was removed", "", "What these prompts ask for:", "", *lines, *stays])


def _how(facts: Card) -> str:
    clocks = (facts.evaluation or {}).get("models", {}).get(facts.entry, {})
    took = [f"{clocks['steps']} optimiser steps"] if clocks.get("steps") is not None else []
    took += [f"{float(clocks['seconds']):.0f} s"] if clocks.get("seconds") is not None else []
    share = 100 * facts.parameters / max(facts.of, 1)
    said = [
        f"Method {_code(facts.method)}, on {_code(facts.parts)}: {facts.parameters:,} of {facts.of:,} weights of the "
        f"noise predictor ({share:.3g} %).",
        f"It took {', '.join(took)}." if took else "",
        "" if facts.seed is None else f"Seed {facts.seed}.",
    ]
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in _flat(facts.settings)]
    table = ["", "| Setting | Value |", "|---|---|", *rows] if rows else []
    return "\n".join(["## How", "", " ".join(filter(None, said)), *table])


def _weights(facts: Card) -> str:
    lines = [
        f"- Original: {_code(_name(facts.base))}",
        f"- SHA-256 of its noise predictor's weights (names, types, shapes, content): {_code(facts.base_hash)}",
    ]
    lines += [] if facts.hash is None else [f"- The same of these weights: {_code(facts.hash)}"]
    told = facts.licence.get("license_name", facts.licence.get("license"))
    licence = (
        "The original does not tell its licence here; whatever it is, it holds for this model too."
        if told is None
        else f"The original's licence ({_plain(told)}) holds for this model too."
    )
    return "\n".join(["## From which weights", "", *lines, "", licence])


def _measured(facts: Card) -> str:
    if facts.evaluation is None:
        return "## What was measured\n\nNothing was measured. How much of the concept is left is not known."
    before, after = (facts.evaluation["models"][name] for name in (_BEFORE, facts.entry))
    measures = [each for each in TextToImagePresentation.measures if each.key not in ("steps", "seconds")]
    known = [each.key for each in measures if each.key in before or each.key in after]
    rows = [
        f"| {each.key} | {each.words}{', %' * (each.unit == '%')} | {'lower' if each.key in _LOWER else 'higher'} | "
        f"{_figure(before.get(each.key))} | {_figure(after.get(each.key))} |"
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
        known += [f"{_figure(value)} % right on test images ({_plain(label)})" for label, value in accuracy.items()]
        said.append(f"Detector: {_plain(detector.get('name'))}{', ' if known else ''}{', '.join(known)}.")
    if sampler:
        scale = float(sampler.get("guidance_scale") or 1)
        said.append(f"Sampler: DDIM, {sampler.get('steps')} steps, η = {sampler.get('eta')}, guidance scale {scale:g}.")
    networks = [f"{name}: {_plain(evaluation[key])}" for key, name in _NETWORKS.items() if evaluation.get(key)]
    return " ".join(said + [f"{'; '.join(networks)}."] * bool(networks))


_NETWORKS = {"features": "Features of the Fréchet distance", "clip": "Network of the CLIP score"}


def _lacking(before: Mapping[str, Any], after: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """The measures that one of the two models lacks, with the reason."""
    lines = []
    for name in known:
        for model, values in (("before", before), ("after", after)):
            if values.get(name) is None:
                reason = (values.get("missing") or {}).get(name, "no reason was recorded")
                lines.append(f"- {name} {model}: {_plain(reason)}")
    return ["", "Not measured:", "", *lines] if lines else []


def _by_part(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    counts = [values.get("by_part") or {} for values in (before, after)]
    parts = list(dict.fromkeys([*counts[0], *counts[1]]))
    rows = [f"| {_cell(part)} | {counts[0].get(part, 0)} | {counts[1].get(part, 0)} |" for part in parts]
    head = ["", "Images of forgotten prompts by what was found in them:", "", "| Part | before | after |"]
    return [*head, "|---|--:|--:|", *rows] if rows else []


def _versions(facts: Card) -> str:
    rows = [f"| {_cell(name)} | {_cell(version)} |" for name, version in facts.versions.items()]
    return "\n".join(["## Made with", "", "| | Version |", "|---|---|", *rows])


_LIMITS = """## Limits

- A detector sees what it sees: an image in which it finds nothing may show the concept all the same, and the other way
  round.
- Only the prompts that are named or counted here were tried. Other words, other languages, prompts that were searched
  for, other samplers, images as a starting point and further training may still bring the concept back.
- What is forgotten here is not forgotten elsewhere: the original, copies of it and what was trained from it are as
  they were. Text encoder and VAE are the original's.
- Other concepts can have changed too. Try the prompts that matter to you before you use the model.
- This is no proof that training data was deleted, and no filter: use it beside other safeguards, not in their place."""


# ── texts in Markdown ───────────────────────────────────────────────────────────────────────────────────────────


def _plain(value: Any) -> str:
    """A text on one line that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(value).split()))


def _code(value: Any) -> str:
    """A text on one line between as many backticks as it takes."""
    text = " ".join(str(value).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    edge = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{ticks}{edge}{text}{edge}{ticks}"


def _cell(value: Any) -> str:
    return _plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _figure(value: Any) -> str:
    return "not measured" if value is None else f"{float(value):.4g}"


def _flat(settings: Mapping[str, Any], start: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{start}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return rows
