"""What is in a run folder, without what differs from run to run: seconds, dates, the salt, the command, its place."""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

VARIES = {"seconds", "clocks", "created", "command", "out", "speedup", "processes", "checkpoint_every", "jobs", "salt"}
"""Keys of JSON and YAML whose values may differ between two runs of one recipe."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def names(folder: Path) -> list[str]:
    """Every file of a folder, hidden ones too, by its relative name."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def differences(found: Path, expected: Path, but: Iterable[str] = ()) -> list[str]:
    """What is otherwise in a folder than in another, but in these files.

    A file that only one of them has, weights and masks that are not the same bit for bit, numbers, pictures.
    """
    there, wanted = set(names(found)) - {*but}, set(names(expected)) - {*but}
    told = [f"{name} is left" for name in sorted(there - wanted)]
    told += [f"{name} is missing" for name in sorted(wanted - there)]
    for name in sorted(there & wanted):
        try:
            same = content(found / name) == content(expected / name)
        except ValueError as error:
            told.append(f"{name} is damaged: {error}")
        else:
            told += [] if same else [f"{name} differs"]
    return told


def half_written(folder: Path) -> list[str]:
    """Files under their final names that are not whole."""
    told = []
    for name in names(folder):
        if is_temporary(name):
            continue
        try:
            content(folder / name)
        except ValueError as error:
            told.append(f"{name} is not whole: {error}")
    return told


def is_temporary(name: str) -> bool:
    """Whether a file says by its name that it is not finished, or a folder that it lies in does."""
    return any(part.startswith(".") or part.endswith((".tmp", ".parts")) for part in Path(name).parts)


def content(path: Path) -> Any:
    """What matters of a file.

    Raises:
        ValueError: if it is not whole.
    """
    if path.suffix == ".safetensors":
        return _tensors(path.read_bytes())
    if path.name == "manifest.json":  # versions, times, and hashes of files that hold seconds
        return bool(json.loads(path.read_text()))
    if path.suffix == ".json":
        return _settled(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        records = [_settled(json.loads(line)) for line in path.read_text().splitlines()]
        return sorted(records, key=lambda record: str(record.get("model")))  # models stand as they were made
    if path.suffix == ".yaml":
        try:
            return _settled(yaml.safe_load(path.read_text()))
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    if path.suffix == ".png":
        return _picture(path.read_bytes())
    if path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("the page has no end")
    if not path.stat().st_size:
        raise ValueError("it is empty")
    return None


def _settled(value: Any) -> Any:
    """A JSON value without what varies; hashes of files are told by the files themselves."""
    if isinstance(value, dict):
        return {key: _settled(entry) for key, entry in value.items() if key not in VARIES}
    if isinstance(value, list):
        return [_settled(entry) for entry in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return "a digest" if isinstance(value, str) and _DIGEST.fullmatch(value) else value


def _tensors(data: bytes) -> Any:
    """Names, types, shapes and bits of a safetensors file; its metadata holds seconds."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    try:
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (LookupError, TypeError) as error:
        raise ValueError("an entry of its header is none of a tensor") from error
    if len(data) != 8 + length + end:
        raise ValueError("it has another length than its header says")
    return header, hashlib.sha256(data[8 + length :]).hexdigest()


def _picture(data: bytes) -> str:
    if not (data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82")):
        raise ValueError("it is no whole PNG")
    return hashlib.sha256(data).hexdigest()
