"""The JSON schema of recipes: valid itself, up to date, and true of what the reader takes and refuses."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from untrain import registry
from untrain.errors import SettingError
from untrain.methods import METHODS
from untrain.runs.origin import load
from untrain.runs.recipe import Recipe, read, write
from untrain.runs.schema import schema, schema_text
from untrain.settings import summary_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
SCHEMA = schema()


def errors(content, known=SCHEMA):
    return [error.message for error in Draft202012Validator(known).iter_errors(content)]


def test_the_schema_is_valid():
    Draft202012Validator.check_schema(SCHEMA)
    for name in registry.names():
        Draft202012Validator.check_schema(schema(name))


def test_the_schema_beside_the_recipes_is_up_to_date():
    assert (ROOT / "recipes" / "schema.json").read_text() == schema_text(), (
        "run `untrain schema --out recipes/schema.json`"
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_fits_it_and_names_it(path):
    content = load(path)[0]
    assert errors(content) == []
    assert errors(content, schema(content.get("task", "classification"))) == []
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert "$schema" not in first
    place = second.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / place).resolve() == ROOT / "recipes" / "schema.json"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_what_a_run_folder_holds_fits_it(path, tmp_path):
    (tmp_path / "config.yaml").write_text(write(read(path)))
    assert errors(load(tmp_path)[0]) == []


@pytest.mark.parametrize("task", registry.names())
def test_defaults_fit_it(task):
    content = Recipe(task=task).plain()
    assert errors(json.loads(json.dumps(content))) == []


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{methods: [sfron, ssd], seed: 3}",
        "{methods: null}",
        "{methods: {sfron: null, a: {method: sfron, alpha: 2, optimizer: null}}}",
        "{methods: {sfron: {method: finetune, epochs: 1}}}",
        "{train: {epochs: 1, optimizer: {lr: 1e-3}}, data: null}",
        "{task: text-to-image, concepts: {forget: [a cat, {prompt: a dog}]}, data: {name: shapes}}",
        "{compare: {forget_sets: {a: {fraction: 0.1}}, spaces: {sfron: {alpha: [1, 2, log]}}}}",
    ],
)
def test_what_the_reader_takes_fits(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    read(tmp_path / "recipe.yaml")
    assert errors(load(tmp_path / "recipe.yaml")[0]) == []


@pytest.mark.parametrize(
    "text",
    [
        "{sed: 1}",
        "{seed: -1}",
        "{seed: x}",
        "{task: speech}",
        "{concepts: {}}",
        "{task: text-to-image, forget: {classes: [1]}}",
        "{task: text-to-image, compare: {forget_sets: {a: {fraction: 0.1}}}}",
        "{train: {optimizer: {lrr: 1}}}",
        "{methods: [sfrn]}",
        "{methods: {sfron: {alhpa: 1}}}",
        "{methods: {sfron: {method: finetune, alpha: 1}}}",
        "{methods: {a: {}}}",
        "{methods: {judge: {method: sfron}}}",
        "{compare: {forget_sets: {a: {fraction: 0.1, count: 3}}}}",
        "{compare: {spaces: {sfron: {alpha: [1]}}}}",
    ],
)
def test_what_the_reader_refuses_does_not_fit(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SettingError):
        read(tmp_path / "recipe.yaml")
    assert errors(load(tmp_path / "recipe.yaml")[0])


def test_fields_have_their_meaning_and_default():
    fields = SCHEMA["$defs"]["recipe classification"]["properties"]
    assert fields["seed"]["default"] == 0
    assert fields["seed"]["description"] == "Seed of everything random."
    assert fields["train"]["properties"]["epochs"]["default"] == 30.0
    assert fields["train"]["properties"]["optimizer"]["properties"]["momentum"]["default"] == 0.9
    assert fields["references"]["default"] == 1
    assert SCHEMA["$defs"]["recipe text-to-image"]["properties"]["references"]["default"] == 0
    judge = SCHEMA["$defs"]["recipe class-diffusion"]["properties"]["judge"]["properties"]
    assert judge["train"]["properties"]["epochs"]["default"] == 20.0


def test_every_field_is_described():
    def undescribed(properties, prefix):
        for name, inner in properties.items():
            if not inner.get("description") and "$ref" not in inner:
                yield prefix + name
            yield from undescribed(inner.get("properties", {}), f"{prefix}{name}.")

    found = [
        each for name, one in SCHEMA["$defs"].items() for each in undescribed(one.get("properties", {}), f"{name}: ")
    ]
    assert found == []
    assert all(summary_of(kind) for kind in METHODS.values())
