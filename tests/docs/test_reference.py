"""The recipe reference says of every field its default, as the code has it."""

import importlib.util
import re
import sys
from dataclasses import is_dataclass
from importlib import import_module

import pytest
import yaml

from helpers.documents import ROOT
from untrain.runs.recipe import Recipe, common_settings
from untrain.settings import REQUIRED, make, settings_of

PAGE = (ROOT / "docs/recipe-reference.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^<!-- fields: ([\w.]+) -->$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def hooks():
    """What generates the tables."""
    spec = importlib.util.spec_from_file_location("hooks_of_docs", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def cells(row):
    """The cells of a table's row; a bar in code is no border."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|(?=(?:[^`]*`[^`]*`)*[^`]*$)", row)[1:-1]]


@pytest.mark.parametrize("path", SHOWN)
def test_every_field_is_documented_with_its_default(hooks, path):
    module, _, name = path.rpartition(".")
    kind = getattr(import_module(module), name)
    known = settings_of(kind)
    if kind is Recipe:
        known = {each: setting for each, setting in known.items() if each in ("methods", *common_settings())}
    text = hooks.documented(hooks.code_of(path), hooks.anchors_of_classes(PAGE))
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            field, _, default, words = cells(line)
            rows[field.strip("`")] = default, words
    assert list(rows) == list(known), "the fields, in the order of the code"
    for field, setting in known.items():
        default, words = rows[field]
        assert words
        value = setting.default
        if value is REQUIRED:
            assert default == "required"
        elif is_dataclass(value) and not default:
            assert value == type(value)(), f"{field} has neither a default nor the section's own"
            assert f"{type(value).__module__}.{type(value).__qualname__}" in SHOWN or field in PAGE
        else:
            found = yaml.safe_load(default.strip("`"))
            assert (make(type(value), found) if is_dataclass(value) else found) == value, field
