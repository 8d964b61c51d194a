"""`untrain list`: everything that a recipe can name. Nothing heavy is imported for it."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from untrain import registry
from untrain.data.sources import SOURCES
from untrain.errors import SettingError
from untrain.methods import methods, unusable
from untrain.registry import Entry


def list_known() -> dict[str, dict[str, str]]:
    """Lists what recipes can name: group → name → one line, which says of what cannot be used why it cannot."""
    tasks: dict[str, str] = {}
    of_tasks: dict[str, dict[str, str]] = {}
    for name in registry.names():
        try:
            entry = registry.entry(name)
            tables = _tables(name, entry)
        except SettingError as error:
            tasks[name] = f"cannot be used: {error}"
            continue
        tasks[name] = entry.title
        for group, table in tables.items():
            of_tasks[group] = {**of_tasks.get(group, {}), **table}
    return {
        "tasks": tasks,
        "methods": {name: method.title for name, method in methods().items()}
        | {name: f"cannot be used: {reason}" for name, reason in unusable().items()},
        "data": {name: kind.description for name, kind in SOURCES.items()},
        **of_tasks,
        "recipes": {str(path): _first_comment(path) for path in sorted(Path("recipes").rglob("*.yaml"))},
    }


def _tables(name: str, entry: Entry) -> Mapping[str, Mapping[str, str]]:
    """What a task's recipes can name besides: group → name → one line."""
    found = {}
    for group, place in entry.listing.items():
        module, _, table = place.partition(":")
        try:
            kinds = getattr(import_module(module), table)
            found[group] = {each: str(kind.description) for each, kind in kinds.items()}
        except Exception as error:  # whatever the code of others raises when it is imported
            said = f"{type(error).__name__}: {error}"
            raise SettingError(f"the {group} of task {name} ({place}) cannot be listed: {said}.") from error
    return found


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
    return first[0].lstrip("# ") if first and first[0].startswith("#") else ""
