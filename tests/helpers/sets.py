"""Two sets that must not share a sample."""

from typing import Any

from untrain.data.checks import check_places


def check_apart(a: Any, b: Any) -> None:
    """Refuses two sets that share a sample."""
    check_places({"a": a, "b": b})
