"""What an audit found: of each method its values, its card, and its verdict."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from untrain.errors import SettingError
from untrain.runs.names import ORIGINAL


@dataclass(frozen=True)
class AuditVerdict:
    """A verdict.

    Attributes:
        kind: blind, broken (of coins alone), trace, damaged, weak or passed; without twins blind, trace, weak or
            cannot-judge; by attacks blind, recoverable, weak, or not recovered by these.
        subkind: of a trace: by coins pushed-away, still-known, hidden or uneven, by references too-little, overshot or
            slight; of what is recoverable: still-drawn or hidden; else None.
        sentence: for the reader.
        remarks: what else they must know.
    """

    kind: str
    subkind: str | None
    sentence: str
    remarks: tuple[str, ...] = ()


class Values(ABC):
    """What a design finds of one kind of model, as values that know nothing of how they are shown."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Returns them as audit.json holds them."""


@dataclass(frozen=True)
class CardRow:
    """A row of the card.

    Attributes:
        name: what is asked.
        value: the answer, with its unit.
        interval: 95 %.
        target: what a model without a trace would have.
        original: the originals' value.
        meaning: the row in one sentence.
    """

    name: str
    value: str
    interval: str
    target: str
    original: str
    meaning: str


@dataclass(frozen=True, eq=False)
class Finding:
    """What an audit found of one method.

    Attributes:
        values: as numbers.
        verdict: what they amount to.
        card: the rows that a reader is shown.
        below: lines under the card.
        figures: data of its pictures, as JSON; see `untrain.report.audit`.
    """

    values: Values
    verdict: AuditVerdict
    card: tuple[CardRow, ...]
    below: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        shown = {"card": [asdict(row) for row in self.card], "below": list(self.below), "figures": dict(self.figures)}
        return {**self.values.plain(), "verdict": asdict(self.verdict), **shown}


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        facts: what was audited: twins, pool, coins and their hash, as audit.json holds them.
        original: what was found of the originals; None where there were none.
        findings: what was found of each method.
        samples: what is known of each sample, where that was asked for; never in audit.json.
    """

    facts: Mapping[str, Any]
    original: Values | None
    findings: Mapping[str, Finding]
    samples: Sequence[Any] = ()

    @property
    def methods(self) -> dict[str, Values]:
        """The numbers of each method."""
        return {name: finding.values for name, finding in self.findings.items()}

    @property
    def verdicts(self) -> dict[str, AuditVerdict]:
        """The verdict on each method."""
        return {name: finding.verdict for name, finding in self.findings.items()}

    @property
    def verdict(self) -> AuditVerdict:
        """The verdict on the only method.

        Raises:
            SettingError: if there are several.
        """
        if len(self.findings) != 1:
            raise SettingError(f"there are {len(self.findings)} verdicts: {', '.join(self.findings)}. See .verdicts.")
        return next(iter(self.verdicts.values()))

    def to_json(self) -> dict[str, Any]:
        """Returns it as audit.json holds it."""
        methods = {name: finding.plain() for name, finding in self.findings.items()}
        controls = {} if self.original is None else {ORIGINAL: self.original.plain()}
        return {**self.facts, "methods": methods, "controls": controls}
