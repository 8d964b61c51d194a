"""JSON schema of recipes, for editors that complete and check YAML."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from untrain import registry
from untrain.data.sections import REQUESTS, Forget
from untrain.io import write_bytes
from untrain.methods import methods
from untrain.runs.flags import arguments, function_help
from untrain.runs.recipe import RESERVED, Recipe, common_settings
from untrain.settings import REQUIRED, Setting, meanings_of, settings_of, summary_of

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SPACE = {
    "anyOf": [
        {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}},
        {
            "type": "array",
            "minItems": 3,
            "maxItems": 3,
            "prefixItems": [{"type": "number"}, {"type": "number"}, {"const": "log"}],
        },
        {
            "type": "object",
            "properties": {"choices": {"type": "array", "minItems": 1}},
            "required": ["choices"],
            "additionalProperties": False,
        },
    ]
}
_NAME = {"pattern": r"^[\w-]+$", "not": {"pattern": f"^({'|'.join(RESERVED)})(-|$)"}}


def schema(task: str | None = None) -> dict[str, Any]:
    """Returns the JSON schema of recipes, draft 2020-12, of whatever tasks and methods are installed.

    Args:
        task: recipes of this task alone; None: of every task, told apart by their field `task`.
    """
    kinds = methods()
    definitions: dict[str, Any] = {
        f"method {name}": _object(kind, also={"method": {"const": name, "description": kind.title}})
        for name, kind in kinds.items()
    }
    definitions["method"] = {
        "properties": {"method": {"enum": list(kinds), "description": "Method, see `untrain list`."}},
        "required": ["method"],
        "allOf": [_where("method", name, f"method {name}") for name in kinds],
    }
    definitions["methods"] = _methods(kinds)
    known = {name: registry.entry(name) for name in (registry.names() if task is None else [task])}
    for name, entry in known.items():
        definitions[f"recipe {name}"] = _recipe(name, entry)
    head = {"$schema": DRAFT, "title": "Recipe of untrain", "description": summary_of(Recipe), "type": "object"}
    if task is not None:
        return {**head, "$ref": f"#/$defs/recipe {task}", "$defs": definitions}
    tasks = {"enum": list(known), "default": registry.DEFAULT_TASK, "description": meanings_of(Recipe)["task"]}
    cases = [_where("task", name, f"recipe {name}", absent=name == registry.DEFAULT_TASK) for name in known]
    return {**head, "properties": {"task": tasks}, "allOf": cases, "$defs": definitions}


def _where(field: str, value: str, definition: str, *, absent: bool = False) -> dict[str, Any]:
    """What holds where a field has a value; also where it is not given, if `absent`."""
    test: dict[str, Any] = {"properties": {field: {"const": value}}}
    if not absent:
        test["required"] = [field]
    return {"if": test, "then": {"$ref": f"#/$defs/{definition}"}}


def _recipe(task: str, entry: registry.Entry) -> dict[str, Any]:
    """A whole recipe of one task, with no other fields."""
    own = settings_of(entry.Sections)
    fields = _properties(common_settings(), meanings_of(Recipe)) | _properties(own, meanings_of(entry.Sections))
    fields["task"] = {"const": task, "description": entry.title}
    fields["references"]["default"] = entry.references
    fields["methods"] = {"$ref": "#/$defs/methods"}
    compare = fields["compare"]["properties"]
    compare["spaces"]["additionalProperties"] = {"type": "object", "additionalProperties": _SPACE}
    forget = own.get("forget")
    if forget is not None and issubclass(forget.section or object, Forget):
        compare["forget_sets"]["additionalProperties"] = _object(forget.section) | {
            "oneOf": [{"required": [each]} for each in REQUESTS]
        }
    else:
        compare["forget_sets"]["maxProperties"] = 0
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _methods(names: Iterable[str]) -> dict[str, Any]:
    """A list of methods, or entries with settings: an entry's name is its method unless it says `method`."""
    named = {"$ref": "#/$defs/method"}
    entries = {
        name: {
            "if": {"type": "object", "required": ["method"]},
            "then": named,
            "else": {"if": {"type": "object"}, "then": {"$ref": f"#/$defs/method {name}"}, "else": {"type": "null"}},
        }
        for name in names
    }
    return {
        "description": "Methods by name, or entries with settings; an entry that is not called as its method names it.",
        "type": ["object", "array", "null"],
        "if": {"type": "array"},
        "then": {"items": {"enum": list(names)}, "uniqueItems": True},
        "else": {
            "propertyNames": _NAME,
            "properties": entries,
            "additionalProperties": {"type": "object", **named},
        },
    }


def _object(kind: Any, base: Any = None, also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A dataclass's settings, and no others."""
    properties = {**(also or {}), **_properties(settings_of(kind), meanings_of(kind), base)}
    required = [name for name, setting in settings_of(kind).items() if setting.default is REQUIRED]
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _properties(known: Mapping[str, Setting], meanings: Mapping[str, str], base: Any = None) -> dict[str, Any]:
    return {
        name: _property(setting, meanings.get(name, ""), setting.default if base is None else getattr(base, name))
        for name, setting in known.items()
    }


def _property(setting: Setting, meaning: str, default: Any) -> dict[str, Any]:
    section, item = setting.section, setting.item
    if section is not None:
        found = _object(section, default if isinstance(default, section) else None)
        found["type"] = ["object", "null"]  # nothing under a section's name is a section with its defaults
        meaning = meaning or summary_of(section)
    elif item is not None:
        shorthand = getattr(item, "shorthand", None)
        each = {"anyOf": [{"type": "string"}, _object(item)]} if shorthand else _object(item)
        found = {"type": "array", "items": each, "default": default}
    else:
        found = dict(setting.schema)
        if default is not REQUIRED:
            found["default"] = default
    return {**found, "description": meaning} if meaning else found


def schema_text(task: str | None = None) -> str:
    """Returns the schema as a file holds it."""
    return json.dumps(schema(task), indent=1, ensure_ascii=False) + "\n"


def schema_command(words: Sequence[str]) -> None:
    """Runs `untrain schema [--task NAME] [--out FILE]`.

    Raises:
        UntrainError: what is wrong with a flag, or with the place to write to.
    """
    if any(word in ("-h", "--help") for word in words):
        print(function_help(write_schema, "untrain schema"))
    else:
        write_schema(**arguments(write_schema, words, "untrain schema"))


def write_schema(task: str | None = None, out: str | None = None) -> None:
    """Writes the JSON schema of recipes, by which editors complete and check them.

    Args:
        task: recipes of this task alone; null: of all tasks.
        out: file to write; null: print it.
    """
    text = schema_text(task)
    if out is None:
        print(text, end="")
    else:
        write_bytes(out, text.encode())
