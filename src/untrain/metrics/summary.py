"""Evaluations in one line."""

from collections.abc import Sequence
from typing import Any


def summarize(evaluation: Any, measures: Sequence[str]) -> str:
    """Returns the type and those of its measures that are known: Evaluation(FA=8.3, RA=99.72, TA=96.4)."""
    known = {name: getattr(evaluation, name) for name in measures}
    shown = [f"{name}={value:.4g}" for name, value in known.items() if value is not None]
    return f"{type(evaluation).__name__}({', '.join(shown)})"
