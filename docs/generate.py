"""Writes the pages that are made from the code: `python docs/generate.py [FOLDER]`, by default this folder.

recipes-reference.md: every field of a recipe, with type, default and meaning, for every task and method that is
installed.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from untrain import registry
from untrain.methods import methods
from untrain.runs.flags import recipe_groups, shown
from untrain.runs.recipe import RecipeFields
from untrain.settings import REQUIRED, Row

HEAD = """\
# Every field of a recipe

Made from the code by `docs/generate.py`; `untrain run RECIPE.yaml --help` says the same of one recipe. How recipes are
written is explained in [recipes](recipes.md). Every field is also a flag: `train.epochs` is `--train.epochs`.
"""


def reference() -> str:
    """Returns the reference of recipes as Markdown: common fields, each task's own, each method's settings."""
    lines = [HEAD, "## Every recipe", ""]
    plans = [RecipeFields(name, registry.entry(name), {}) for name in registry.names()]
    first = plans[0]
    for heading, meaning, rows in recipe_groups(first):
        if heading.partition(".")[0] not in first.sections:
            common = [row for row in rows if row.name not in first.sections]
            lines += ([f"### {heading}", ""] if heading else []) + [meaning, "", *table(common, heading)]
    for plan in plans:
        lines += [f"## Task {plan.task}", "", plan.entry.title, ""]
        for heading, meaning, rows in recipe_groups(plan):
            own = rows if heading in plan.sections else [row for row in rows if row.name in plan.sections]
            if own and (heading in plan.sections or not heading):
                lines += ([f"### {plan.task}: {heading}", "", meaning, ""] if heading else []) + table(own, heading)
    lines += ["## Methods", ""]
    for heading, meaning, rows in recipe_groups(RecipeFields(first.task, first.entry, dict(methods()))):
        if heading.startswith("methods."):
            name, meaning = heading.removeprefix("methods."), meaning.partition(": ")[2]
            lines += [f"### {name}", "", meaning, "", *table(rows, heading)]
    return "\n".join(lines).rstrip() + "\n"


def table(rows: Iterable[Row], heading: str) -> list[str]:
    """Returns a table of settings, without the heading in their names."""
    found = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        name = row.name.removeprefix(f"{heading}.") if heading else row.name
        default = "" if row.is_section or row.default is REQUIRED else f"`{shown(row.default)}`"
        cells = (f"`{name}`", row.words, default, row.meaning)
        found.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*found, ""]


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (folder / "recipes-reference.md").write_text(reference(), encoding="utf-8")
