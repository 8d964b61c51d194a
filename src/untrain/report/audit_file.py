"""What a run's audit.json tells a reader: verdicts, cards, figures, and what it is worth."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from untrain.errors import StaleFile
from untrain.report.audit import AuditCurve, AuditFigure, AuditHistogram, AuditPictures
from untrain.report.audited import AuditedMethod
from untrain.report.results import ORIGINAL, as_mapping, as_sequence
from untrain.report.words import label_of
from untrain.sealed import read_sealed

if TYPE_CHECKING:
    from pydantic import TypeAdapter

AUDIT, AUDIT_FILE, AUDIT_PAGE = "audit", "audit.json", "audit.html"
"""The folder of a run's audit, and two files in it."""
SHOWN = ("methods", "controls", "not_tried", "notes", "command")
"""What of audit.json is shown otherwise than as a fact."""


@dataclass(frozen=True)
class AuditReport:
    """The audit of a run.

    Attributes:
        folder: of the audit.
        facts: what was audited, and how.
        methods: what it says of each; none where it is not finished.
        original: numbers of the originals, as audit.json holds them.
        not_tried: attacks that were not tried.
        notes: what else must be known.
        stale: why it does not speak of what the run holds now; empty where it does.
    """

    folder: Path
    facts: Mapping[str, Any]
    methods: tuple[AuditedMethod, ...] = ()
    original: Mapping[str, Any] = field(default_factory=dict)
    not_tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stale: str = ""

    @property
    def unfinished(self) -> str:
        """Says that nothing is known yet; empty where something is."""
        if self.methods or self.stale:
            return ""
        return (
            "The audit of this run was begun and is not finished, so nothing can be said yet. "
            f"untrain audit {self.folder.parent} --resume goes on with it."
        )

    def method(self, name: str) -> AuditedMethod | None:
        """Returns what it says of a method; None: it says nothing."""
        return next((method for method in self.methods if method.name == name), None)


def read_audit(folder: Path, models: Mapping[str, Any]) -> AuditReport | None:
    """Reads the audit of a run; None where there is none.

    Args:
        folder: of the run.
        models: what the run's manifest says of how each model was made, to see whether the audit is of these.

    Raises:
        StaleFile: if the file is damaged, or its figures are none that are known.
    """
    path = folder / AUDIT / AUDIT_FILE
    again = f"Remove it, and untrain audit {folder} makes it anew of the answers that are kept."
    found = read_sealed(path, again, "an audit")
    if found is None:
        return None
    facts = {key: value for key, value in found.items() if key not in SHOWN and key != "models"}
    given = as_mapping(found.get("methods"))
    if changed := _changed(as_mapping(found.get("models")), models):
        stale = (
            f"{path} is of other models than this run holds now: {', '.join(changed)} was made anew since. Nothing of "
            f"it is shown. untrain audit {folder} --resume brings it up to date."
        )
        return AuditReport(path.parent, facts, stale=stale)
    methods = tuple(_method(str(name), as_mapping(one), path, again) for name, one in given.items())
    original = as_mapping(as_mapping(found.get("controls")).get(ORIGINAL))
    texts = _texts(found.get("not_tried")), _texts(found.get("notes"))
    return AuditReport(path.parent, facts, methods, original, *texts)


def _changed(audited: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """Names models whose fingerprints are no longer those that were audited."""
    now = {name: as_mapping(models.get(name)).get("fingerprint") for name in audited}
    return [label_of(name) for name, mark in audited.items() if now[name] is not None and now[name] != mark]


def _method(name: str, given: Mapping[str, Any], path: Path, again: str) -> AuditedMethod:
    keys = ("name", "value", "interval", "target", "original", "meaning")
    rows = [{key: _signed(as_mapping(row).get(key, "")) for key in keys} for row in as_sequence(given.get("card"))]
    figures = {str(key): _figure(str(key), one, path, again) for key, one in as_mapping(given.get("figures")).items()}
    numbers = {key: value for key, value in given.items() if key not in ("verdict", "card", "below", "figures")}
    judged = AuditedMethod.of_json(name, given.get("verdict"))
    return replace(
        judged,
        card=tuple(rows),
        below=tuple(map(_signed, _texts(given.get("below")))),
        figures=figures,
        numbers=numbers,
    )


def _signed(text: Any) -> str:
    """Writes a minus sign before negative numbers, not a hyphen."""
    return re.sub(r"(?<![\w.)])-(?=\d)", "−", str(text))


def _texts(given: Any) -> tuple[str, ...]:
    return tuple(str(text) for text in as_sequence(given))


@cache
def _adapter() -> "TypeAdapter[Any]":
    from pydantic import ConfigDict, Field, TypeAdapter

    kinds: Any = Annotated[AuditFigure, Field(discriminator="kind")]
    return TypeAdapter(kinds, config=ConfigDict(allow_inf_nan=False))


def _figure(name: str, given: Any, path: Path, again: str) -> AuditFigure:
    """Reads a figure.

    Raises:
        StaleFile: if it is of no known kind, or its parts do not fit together.
    """
    from pydantic import ValidationError

    try:
        figure: AuditFigure = _adapter().validate_python(given)
        _check_fit(figure)
    except (ValidationError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise StaleFile(f"{path}: the figure {name!r} is not one that can be drawn ({why}). {again}") from error
    return figure


def _check_fit(figure: AuditFigure) -> None:
    """Refuses parts of unequal length and files outside of the audit.

    Raises:
        ValueError: says which.
    """
    if isinstance(figure, AuditCurve):
        for line in figure.lines:
            counts = {len(line.x), len(line.y), *({len(line.low), len(line.high)} if line.low or line.high else ())}
            if counts != {len(line.x)} or not line.x:
                raise ValueError(f"the line {line.name!r} has {sorted(counts)} values")
    elif isinstance(figure, AuditHistogram):
        for panel in figure.panels:
            counts = {len(values) for values in panel.groups.values()}
            if counts != {len(panel.edges) - 1} or sorted(set(panel.edges)) != list(panel.edges):
                raise ValueError(f"{len(panel.edges)} ascending edges of {panel.name!r} do not fit {sorted(counts)}")
    elif isinstance(figure, AuditPictures):
        for picture in (picture for row in figure.rows for picture in row.pictures):
            parts = Path(picture.file).parts
            if Path(picture.file).is_absolute() or ".." in parts or "\0" in picture.file or not parts:
                raise ValueError(f"the picture {picture.file!r} is outside of the audit")
