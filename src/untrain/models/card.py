"""Model cards: what every card of a model that forgot says, whatever kind of model it is."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from untrain.reading import lies_in

CARD = "README.md"
"""The name of a model card in its folder."""

_HUB_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
_OFFERED = ("license", "license_name", "license_link")


def card_text(front: Mapping[str, Any], parts: Sequence[str]) -> str:
    """A card in Markdown, behind the YAML that model hubs read."""
    head = f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)}---"
    return "\n\n".join(part.strip() for part in (head, *parts)) + "\n"


def base_front(base: str, licence: Mapping[str, str]) -> dict[str, Any]:
    """What model hubs read of the original: its licence, and where it is theirs, its name."""
    front: dict[str, Any] = {key: licence[key] for key in _OFFERED if key in licence}
    return front | ({"base_model": base, "base_model_relation": "finetune"} if is_hub_id(base) else {})


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


def is_hub_id(base: str) -> bool:
    """Whether it is the name of a repository, and no path."""
    return bool(re.fullmatch(_HUB_ID, base)) and not Path(base).exists()


def base_name(base: str) -> str:
    """A repository's name; of a path the last part alone."""
    return plain(base if is_hub_id(base) else Path(base).name or base)


# ── parts of a card ─────────────────────────────────────────────────────────────────────────────────────────────


def how_section(
    method: str, trained: str, settings: Mapping[str, Any], seed: int | None, clocks: Mapping[str, Any]
) -> str:
    """By what method, and at what cost.

    Args:
        method: its name.
        trained: what of the model it trained, after a comma.
        settings: of the method, as they were resolved.
        seed: of the run.
        clocks: "steps" and "seconds", where they are known.
    """
    took = [f"{clocks['steps']} optimiser steps"] if clocks.get("steps") is not None else []
    took += [f"{float(clocks['seconds']):.0f} s"] if clocks.get("seconds") is not None else []
    said = [
        f"Method {code(method)}, {trained}.",
        f"It took {', '.join(took)}." if took else "",
        "" if seed is None else f"Seed {seed}.",
    ]
    rows = [f"| {cell(key)} | {cell(value)} |" for key, value in flat(settings)]
    table = ["", "| Setting | Value |", "|---|---|", *rows] if rows else []
    return "\n".join(["## How", "", " ".join(filter(None, said)), *table])


def weights_section(base: str, before: str, after: str | None, licence: Mapping[str, str], whose: str) -> str:
    """From which weights it was made.

    Args:
        base: hub id, folder or file of the original.
        before: hash of its weights, as `state_hash` gives it.
        after: the same of the new ones.
        licence: as `licence_of` gives it.
        whose: which weights are hashed.
    """
    lines = [
        f"- Original: {code(base_name(base))}",
        f"- SHA-256 of {whose} (names, types, shapes, content): {code(before)}",
    ]
    lines += [] if after is None else [f"- The same of these weights: {code(after)}"]
    told = licence.get("license_name", licence.get("license"))
    holds = (
        "The original does not tell its licence here; whatever it is, it holds for this model too."
        if told is None
        else f"The original's licence ({plain(told)}) holds for this model too."
    )
    return "\n".join(["## From which weights", "", *lines, "", holds])


def versions_section(versions: Mapping[str, str]) -> str:
    """With which libraries."""
    rows = [f"| {cell(name)} | {cell(version)} |" for name, version in versions.items()]
    return "\n".join(["## Made with", "", "| | Version |", "|---|---|", *rows])


# ── texts in Markdown ───────────────────────────────────────────────────────────────────────────────────────────


def plain(value: Any) -> str:
    """A text on one line that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(value).split()))


def code(value: Any) -> str:
    """A text on one line between as many backticks as it takes."""
    text = " ".join(str(value).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    edge = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{ticks}{edge}{text}{edge}{ticks}"


def cell(value: Any) -> str:
    """A value in one cell of a table."""
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def figure(value: Any) -> str:
    """A number with four digits."""
    return "not measured" if value is None else f"{float(value):.4g}"


def flat(settings: Mapping[str, Any], start: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted names."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{start}{key}"
        rows += flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return rows
