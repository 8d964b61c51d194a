"""What is called how in a run folder."""

ORIGINAL, RETRAINED = "original", "retrained"
FIRST = "original-first"
"""The model before the first of several requests."""
CONFIG, MANIFEST, SPLIT = "config.yaml", "manifest.json", "split.json"
HISTORY, EVALUATION = "history.jsonl", "evaluation.json"


def numbered(name: str, count: int) -> list[str]:
    """Returns what several models of one kind are called: "retrained", "retrained-2", …; the first is the target."""
    return [name if i == 1 else f"{name}-{i}" for i in range(1, count + 1)]
