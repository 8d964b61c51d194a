"""What an audit says of one method, for readers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from untrain.report.audit import AuditFigure
from untrain.report.words import capitalize, label_of

HEADLINES = {
    "blind": "The audit cannot judge",
    "cannot-judge": "The audit cannot judge",
    "broken": "The audit is wrong here",
    "trace": "A trace is left",
    "damaged": "No trace was found, but the model is damaged",
    "weak": "No trace was found, but much could have been missed",
    "passed": "No trace was found",
}
"""Kind of a verdict → what stands above its sentence; of others, the kind itself."""


@dataclass(frozen=True)
class AuditedMethod:
    """What an audit says of one method.

    Attributes:
        name: of the method.
        kind: of the verdict.
        subkind: of it; empty: none.
        sentence: the verdict.
        remarks: what else belongs beside it.
        card: rows, each with name, value, interval, target, original and meaning.
        below: lines under the card.
        figures: by name.
        numbers: as audit.json holds them.
    """

    name: str
    kind: str
    subkind: str
    sentence: str
    remarks: tuple[str, ...] = ()
    card: tuple[Mapping[str, str], ...] = ()
    below: tuple[str, ...] = ()
    figures: Mapping[str, AuditFigure] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name as shown."""
        return label_of(self.name)

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        words = HEADLINES.get(self.kind) or capitalize(self.kind.replace("-", " ")) or "Not judged"
        return f"{words}, {self.subkind.replace('-', ' ')}" if self.subkind else words

    @classmethod
    def of_json(cls, name: str, verdict: Any) -> "AuditedMethod":
        """Reads a method's verdict alone; what a hand-made file leaves out is empty."""
        given = verdict if isinstance(verdict, Mapping) else {}
        kind, subkind, sentence = (str(given.get(key) or "") for key in ("kind", "subkind", "sentence"))
        if sentence.startswith(f"{name} "):  # a page calls methods as their papers do
            sentence = label_of(name) + sentence.removeprefix(name)
        remarks = given.get("remarks")
        texts = tuple(map(str, remarks)) if isinstance(remarks, list | tuple) else ()
        return cls(name, kind, subkind, sentence, texts)

    def to_json(self) -> dict[str, Any]:
        """Returns its verdict as `of_json` reads it."""
        found = {"kind": self.kind, "subkind": self.subkind or None, "sentence": self.sentence}
        return {**found, "remarks": list(self.remarks)}
