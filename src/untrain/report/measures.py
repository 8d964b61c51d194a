"""Measures and the words for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from untrain.report.words import capitalize, show, show_duration, uncapitalize


@dataclass(frozen=True)
class Measure:
    """One measure: how it is called, what it means and what it should be, in words for a reader new to the field."""

    key: str
    """What results call it."""
    name: str
    """Its short name, at the head of a column."""
    title: str
    unit: str
    meaning: str
    aim: str
    digits: int = 2
    compared: bool = False
    """Whether the difference to the model that values are held against is shown under the value."""
    main: bool = True
    """Whether it stands in the first table of a comparison; all others stand in a second one."""
    shown: Literal["always", "known", "named", "noted"] = "always"
    """"known": only where a model has a value; "named": only where a model has it, if only as missing; "noted": only
    where a model has a value, and where all miss it, a line under the table says why."""
    phrase: str = ""
    """What it is called in a sentence, without an article; empty: the title."""
    narrow: bool = True
    """Whether it stands in the table of a comparison for the terminal."""
    bounds: tuple[float, float] | None = None
    """Between which its values lie; None: what its unit says."""

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return self.phrase or uncapitalize(self.title)

    @property
    def heading(self) -> str:
        """What it is called above its value."""
        return capitalize(self.words)

    @property
    def head_unit(self) -> str:
        """The unit at the head of its column; times have theirs beside each value."""
        return "" if self.key == "seconds" else self.unit

    @property
    def gap_unit(self) -> str:
        """The unit of a difference between two values: of percentages, points."""
        return "points" if self.unit == "%" else self.unit

    def within(self, interval: tuple[float, float]) -> tuple[float, float]:
        """Cuts an interval at what the measure can be: its mean lies there, so nothing is lost of the confidence."""
        low, high = self.bounds or _BOUNDS.get(self.unit, (-math.inf, math.inf))
        return min(max(interval[0], low), high), max(min(interval[1], high), low)

    def show(self, value: float) -> str:
        """Shows a value without its unit; a time has one."""
        return show_duration(value) if self.key == "seconds" else show(value, self.digits)

    def amount(self, value: float) -> str:
        """Shows a value with its unit."""
        return f"{self.show(value)} {self.head_unit}".rstrip()


_BOUNDS = {"%": (0.0, 100.0), **dict.fromkeys(("s", "nats", "points"), (0.0, math.inf))}
"""Unit → between which values lie."""


@dataclass(frozen=True)
class Distance:
    """The one number that says how far a model is from the retrained one: the mean of |value − retrained value|.

    Attributes:
        key: what it is called in results, "AvgD".
        parts: keys of the measures that it averages.
        name: in a sentence: "average distance".
        unit: of it: "points".
    """

    key: str
    parts: Sequence[str]
    name: str = "average distance"
    unit: str = "points"


TIME = Measure(
    "seconds", "Time", "Run time", "s",
    "How long it took to make the model, the look at the data before the first step (Fisher) included and evaluation "
    "left out. Under it: how that compares with retraining.",
    "A small share of the retraining time; otherwise one could retrain.",
)  # fmt: skip

AUDIT_AUC = Measure(
    "audit_auc", "AUC", "Audit: AUC", "",
    "The chance that an attack ranks a forgotten sample above a never-seen one, over models that an audit made for one "
    "of the seeds.",
    "0.5, which is guessing.", digits=3, phrase="AUC of the audit", narrow=False, bounds=(0.0, 1.0),
)  # fmt: skip
TRACE_LEFT = Measure(
    "audit_left", "left", "Audit: trace left", "%",
    "The share of an attacker's advantage on the original that is left after the method, by the audit.",
    "Zero.", digits=0, phrase="trace left", bounds=(-math.inf, math.inf),
)  # fmt: skip
AUDIT_VERDICT = Measure(
    "audit_verdict", "audit", "Verdict of the audit", "",
    "What the audit's numbers amount to; a trace is a false alarm in one of twenty audits at most.",
    "Passed: no trace was found, and a large one is excluded.", phrase="verdict of the audit",
)  # fmt: skip
AUDITED = (AUDIT_AUC, TRACE_LEFT, AUDIT_VERDICT)
"""What a comparison shows of its audits, in the order of the columns."""
