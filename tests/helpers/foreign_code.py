"""Folders of a stranger, with Python files that leave a mark where they are imported."""

import json
from pathlib import Path
from typing import Any

MARK = "RAN"
CODE = "from pathlib import Path\nPath({mark!r}).touch()\n"
"""Leaves its mark at one place: the libraries run copies."""


def plant(path: Path) -> Path:
    """Writes such a file; the mark that it would leave is given back."""
    mark = path.with_name(MARK)
    path.write_text(CODE.format(mark=str(mark)))
    return mark


def change(path: Path, **entries: Any) -> None:
    """Puts entries over those of a JSON file."""
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | entries))
