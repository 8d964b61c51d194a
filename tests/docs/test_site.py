"""The site of docs/ builds without a warning, and what it generates is complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from untrain import registry
from untrain.methods import METHODS
from untrain.runs.recipe import common_settings

ROOT = Path(__file__).parents[2]
SITE_IS_BUILT = bool(os.environ.get("UNTRAIN_NO_SITE"))
"""Whoever sets it has just built the site by `make docs`, as CI has."""


def shown():
    """The classes whose fields the recipe reference shows, by their paths."""
    page = (ROOT / "docs/recipe-reference.md").read_text(encoding="utf-8")
    return re.findall(r"^<!-- fields: ([\w.]+) -->$", page, re.MULTILINE)


def path_of(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


@pytest.mark.skipif(SITE_IS_BUILT, reason="UNTRAIN_NO_SITE is set: make docs has built it")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site/recipe-reference.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in page for name in ("methods", *common_settings()))
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', page)
    assert not fetched, "the site is read without a network"


def test_every_section_of_every_task_is_in_the_recipe_reference():
    for name in registry.names():
        assert path_of(registry.entry(name).Sections) in shown(), name


def test_every_method_is_in_the_recipe_reference():
    assert {path_of(method) for method in METHODS.values()} <= set(shown())
