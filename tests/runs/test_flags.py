"""Help texts and the reference of recipes say all that can be given; functions become commands."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge

from untrain import registry
from untrain.errors import SettingError, UnknownName
from untrain.runs.flags import arguments, function_help, keys_of, recipe_groups, recipe_help, split
from untrain.runs.recipe import Recipe, flat, read, recipe_fields
from untrain.runs.schema import schema_command, schema_text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("task", registry.names())
def test_help_lists_every_field_with_its_meaning(task):
    known = recipe_fields(None, ["--task", task, "--method", "sfron", "--method", "esd"])
    rows = {row.name: row for _, _, rows in recipe_groups(known) for row in rows}
    content = read(None, ["--task", task, "--method", "sfron", "--method", "esd"]).plain()
    headings = {heading for heading, _, _ in recipe_groups(known)}
    named = {name for name in flat(content) if not name.endswith(".method")} - headings
    assert named <= set(rows)
    assert not [row for row in rows.values() if re.match("[a-z]", row.meaning)]
    assert [row.name for row in rows.values() if not row.meaning] == []
    text = recipe_help(known)
    assert all(f"--{name} " in text for name in named)


def test_help_says_type_default_and_meaning():
    lines = [line.strip() for line in recipe_help(recipe_fields(None)).splitlines()]
    place = next(i for i, line in enumerate(lines) if line.startswith("--seed "))
    assert "whole number" in lines[place]
    assert "default 0" in lines[place]
    assert lines[place + 1] == "Seed of everything random."
    assert not any("None" in line for line in lines)


def test_help_is_of_the_recipes_task_and_methods(tmp_path):
    (tmp_path / "recipe.yaml").write_text("methods: {careful: {method: ssd}}\nseed: not a number\n")
    text = recipe_help(recipe_fields(tmp_path / "recipe.yaml"))
    assert "--methods.careful.lam" in text
    assert "--methods.sfron" not in text
    assert "--concepts" not in text
    assert "--concepts.keep" in recipe_help(recipe_fields(tmp_path / "recipe.yaml", ["--task", "text-to-image"]))


def test_words_of_a_command_line_become_flags():
    assert split(["--a", "1", "--b=2=3", "--c.d", "-1"]) == [("a", "1"), ("b", "2=3"), ("c.d", "-1")]
    assert keys_of(dict[str, int], ["a.b", "c"]) == ["a.b.c"]
    assert keys_of(dict[str, dict[str, int]], ["a", "b", "c"]) == ["a", "b.c"]
    assert keys_of(int, ["a"]) == []


def make(
    source: Path,
    classes: str = "all",
    count: Annotated[int, Ge(1)] | None = None,
    batch_size: int = 8,
    form: Literal["grid", "folder"] = "grid",
) -> None:
    """Makes images.

    Args:
        source: a folder.
        classes: numbers or names.
        count: images of each; None: 16.
        batch_size: images at a time.
        form: what is written.
    """


def test_a_function_is_a_command():
    given = arguments(make, ["runs/x", "--classes", "3", "--batch-size=4", "--batch_size", "5"], "untrain make")
    assert given == {"source": Path("runs/x"), "classes": "3", "batch_size": 5}
    text = function_help(make, "untrain make")
    assert text.startswith("usage: untrain make SOURCE")
    for word in ("Makes images.", "--batch-size", "default 8", "'grid' or 'folder'", "null: 16"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        ([], "SOURCE"),
        (["--count", "2"], "SOURCE"),
        (["x", "y"], "'y'"),
        (["x", "--form", "png"], r"--form .*'grid' or 'folder'.*'png'"),
        (["x", "--count", "0"], r"--count .*from 1.*0"),
        (["x", "--batch-size", "many"], r"--batch-size .*whole number.*'many'"),
        (["x", "--clases", "3"], r"'--clases'.*'--classes'\?.*--batch-size"),
        (["x", "--count"], "--count needs a value"),
    ],
)
def test_what_is_wrong_with_a_command_is_named(words, culprit):
    with pytest.raises(SettingError, match=culprit):
        arguments(make, words, "untrain make")


def test_the_schema_is_written_by_a_command(tmp_path, capsys):
    schema_command(["--out", str(tmp_path / "recipe.json")])
    assert (tmp_path / "recipe.json").read_text() == schema_text()
    schema_command(["--task", "class-diffusion"])
    assert capsys.readouterr().out == schema_text("class-diffusion")
    schema_command(["--help"])
    assert "--out" in capsys.readouterr().out
    with pytest.raises(UnknownName, match="'speech'"):
        schema_command(["--task", "speech"])


def test_a_recipe_in_python_needs_no_file():
    assert Recipe(task="class-diffusion").sections == registry.entry("class-diffusion").Sections()
