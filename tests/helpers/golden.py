"""Texts that a test compares with a file, and that are written anew on demand.

Where words change on purpose, `UNTRAIN_WRITE_GOLDEN=1 pytest tests/report` writes the files anew; what changed is then
read in the diff.
"""

import os
from pathlib import Path


def check_golden(path: Path, text: str) -> None:
    """Compares line by line, so that a failure shows the line."""
    if os.environ.get("UNTRAIN_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8")
    assert text.splitlines() == kept.splitlines(), f"UNTRAIN_WRITE_GOLDEN=1 writes {path.name} anew"
