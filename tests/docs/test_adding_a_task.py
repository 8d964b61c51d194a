"""The page on tasks holds: the domain that it writes runs from the command line, and its table names what there is."""

import inspect
import json
import re
import sys
from dataclasses import fields

import pytest

from helpers.command_line import untrain
from helpers.documents import ROOT, blocks
from untrain import Domain
from untrain.domain import Context
from untrain.types import FUNCTIONS

PAGE = ROOT / "docs/adding-a-task.md"
TASK = ("--task", "attributes:MultiLabelDomain", "--device", "cpu")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the page's code as a module of one's own."""
    code = [block for block in blocks(PAGE, "python", "run") if "unlearn(" not in block]
    (tmp_path / "attributes.py").write_text("\n\n".join(code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("attributes", None)


def test_the_domain_runs_without_being_installed(place):
    flags = ("--forget.fraction", "0.1", "--train.epochs", "3", "--hidden", "16", "--method", "sfron", "--out", "run")
    for words in (("run", *TASK, *flags), ("evaluate", "run", "--resume", *TASK), ("report", "run", *TASK[:2])):
        code, _, err = untrain(*words)
        assert code == 0, err
    models = json.loads((place / "run/evaluation.json").read_text())["models"]
    assert {"forget_loss", "test_loss", "AvgD"} <= models["sfron"].keys()
    code, _, err = untrain("evaluate", "run", "--resume")
    assert code == 1, "no folder may name code"
    assert "--task attributes:MultiLabelDomain" in err


def test_what_it_names_is_there():
    text = PAGE.read_text()
    named = re.findall(r"^\| [^|]+ \| `(\w+)\(", text, re.MULTILINE)
    assert len(named) > 10
    assert {*named} <= {*dir(Domain)}
    listed = re.findall(r"^\| `(\w+)\(.*", text, re.MULTILINE)
    assert {*FUNCTIONS} <= {*listed}
    assert {"engine", "folder", "seed", "batch_size"} <= {field.name for field in fields(Context)}
    assert inspect.isabstract(Domain)
    assert Domain.__abstractmethods__ == {"load", "build"}, "the page says that these two are needed"


def test_its_recipe_is_the_examples():
    assert 'next-token = "next_token.domain:NextTokenDomain"' in PAGE.read_text()
    assert (
        'next-token = "next_token.domain:NextTokenDomain"' in (ROOT / "examples/next_token/pyproject.toml").read_text()
    )
