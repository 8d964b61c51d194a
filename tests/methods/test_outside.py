"""Methods of other distributions: found by their entry point, run by name, and blamed by name when broken."""

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import untrain
from helpers.command_line import untrain as untrain_command
from untrain.errors import SettingError, UnknownName
from untrain.methods import find, unusable
from untrain.methods.base import Method
from untrain.methods.finetune import Finetune

MODULE = '''\
from dataclasses import dataclass
from typing import ClassVar

from untrain import Method
from untrain.methods.finetune import Finetune

@dataclass(frozen=True)
class Short(Finetune):
    """Finetune for an instant."""

    name: ClassVar[str] = "short"
    title: ClassVar[str] = "finetune for an instant"

    epochs: float = 0.2
    """Passes over the retain set."""
    remark: str = "none"
    """What to put into the log."""

    def step(self, state, k):
        return {**super().step(state, k), "remark": self.remark}

@dataclass(frozen=True)
class Unfinished(Method):
    name: ClassVar[str] = "unfinished"
    title: ClassVar[str] = "has no step"

class Undecorated(Short):
    name: ClassVar[str] = "undecorated"
    more: int = 1

nothing = 3
'''
RECIPE = """\
name: outside
data: {name: digits, limit: 300, test_limit: 100}
forget: {fraction: 0.1}
model: {name: small-cnn, options: {width: 4}}
train: {epochs: 1}
references: 0
methods:
  short: {remark: hello}
  longer: {method: short, epochs: 0.4}
"""


def install(folder, entries, distribution="tiny-methods", module="tiny_methods"):
    """What an installer leaves on disk: a module, and metadata with entry points."""
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = [f"{name} = {module}:{attribute}" for name, attribute in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[untrain.methods]", *lines, ""]))
    (folder / f"{module}.py").write_text(MODULE)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path, as site-packages is; what was imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def things():
    """A model and two sets, as `unlearn` takes them."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g), torch.randint(0, 3, (60,), generator=g)
    return {"model": nn.Linear(5, 3), "forget": [(x[:20], y[:20])], "retain": [(x[20:], y[20:])], "device": "cpu"}


def test_a_method_of_another_distribution_runs_by_name_on_the_command_line(site, tmp_path):
    install(site, {"short": "Short"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    flags = ("--device", "cpu", "--methods.longer.remark", "flag", "--out", tmp_path / "run")
    code, _, err = untrain_command("run", recipe, *flags)
    assert code == 0, err
    models = json.loads((tmp_path / "run/evaluation.json").read_text())["models"]
    assert set(models) == {"original", "short", "longer"}
    records = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert {record["remark"] for record in records if record["model"] == "short"} == {"hello"}
    assert {record["remark"] for record in records if record["model"] == "longer"} == {"flag"}
    kept = json.loads((tmp_path / "run/manifest.json").read_text())["models"]["longer"]
    assert kept["method"] == "short"
    assert kept["settings"]["epochs"] == 0.4
    code, _, err = untrain_command("unlearn", tmp_path / "run", "--resume")
    assert code == 0, err


def test_python_finds_it_too(site):
    assert "short" not in untrain.methods()
    install(site, {"short": "Short"})
    assert untrain.methods()["short"].title == "finetune for an instant"
    assert list(untrain.methods())[:1] == ["sfron"], "the built-in ones come first"
    result = untrain.unlearn(**things(), method="short", remark="called")
    assert {record["remark"] for record in result.history} == {"called"}
    with pytest.raises(SettingError, match="unknown setting of short 'remak'. Did you mean 'remark'"):
        untrain.unlearn(**things(), method="short", remak="called")
    with pytest.raises(SettingError, match="epochs must be a number, not 'many'"):
        untrain.unlearn(**things(), method="short", epochs="many")
    with pytest.raises(UnknownName, match="Did you mean 'short'.* Known: .*finetune, .*short"):
        find("shrt")


def test_a_class_needs_no_entry_point():
    @dataclass(frozen=True)
    class Mine(Finetune):
        """Finetune, by another name."""

        name: ClassVar[str] = "mine"
        steps: int | None = 3

    result = untrain.unlearn(**things(), method=Mine)
    assert len(result.history) == 3
    assert result.method.name == "mine"
    assert "mine" not in untrain.methods()


def test_nothing_is_imported_before_it_is_asked_for(site):
    install(site, {"short": "Short"})
    assert find("finetune") is Finetune
    assert "tiny_methods" not in sys.modules
    assert issubclass(find("short"), Method)
    assert "tiny_methods" in sys.modules


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"x": "Missing"}, r"cannot be imported: AttributeError: .*Missing"),
        ({"x": "nothing"}, r"is no class derived from untrain\.Method"),
        ({"unfinished": "Unfinished"}, r"does not define resolved, start, step, total"),
        ({"undecorated": "Undecorated"}, r"is not decorated with @dataclass"),
        ({"x": "Short"}, r"calls itself 'short': entry point and class must have one name"),
        ({"finetune": "Short"}, r"the name 'finetune' is taken by untrain's own method"),
    ],
)
def test_a_broken_one_is_blamed_by_name_and_stops_no_other(site, entries, reason):
    install(site, entries)
    (name,) = entries
    with pytest.raises(SettingError, match=rf"the distribution tiny-methods 1\.2.*{reason}.*uninstall"):
        find(name)
    assert list(unusable()) == [name]
    assert name not in untrain.methods()
    assert find("sfron") is untrain.methods()["sfron"]


def test_two_distributions_with_one_name(site):
    install(site, {"short": "Short"})
    install(site, {"short": "Short"}, distribution="other", module="other_methods")
    with pytest.raises(SettingError, match=r"'short' comes from .*(tiny-methods 1\.2|other 1\.2) and from .* all but"):
        find("short")


def test_the_command_line_lists_and_blames(site, tmp_path):
    install(site, {"short": "Short", "salty": "Missing"})
    code, listed, _ = untrain_command("list")
    assert code == 0
    assert "finetune for an instant" in listed
    assert "cannot be used: the distribution tiny-methods 1.2: its method 'salty'" in listed
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\nmethods:\n  salty: {}\n")
    code, _, err = untrain_command("run", recipe)
    assert code == 1
    assert "recipe.yaml, line 3: the distribution tiny-methods 1.2: its method 'salty'" in err
    assert "Traceback" not in err
