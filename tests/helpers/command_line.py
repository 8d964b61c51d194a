"""The command line as tests use it: run in this process, with what it printed; and a recipe that takes a second."""

import contextlib
import io
import json
from pathlib import Path

from safetensors.torch import load_file

from untrain.cli import main

RECIPE = """\
# Digits, a random tenth forgotten, far too short to be good
name: small
data: {name: digits}
forget: {fraction: 0.1, holdout: 0.1}
model: {name: small-cnn, options: {width: 4}}
train: {epochs: 2}
methods:
  finetune: {epochs: 1}
  sfron: {epochs: 1, retain_steps: 2}
batch_size: 64
"""


def untrain(*words):
    """Exit code, standard output and standard error of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def files(folder):
    """Names of all files in a folder, hidden ones included; nothing where there is no folder."""
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).exists() else []


def assert_close(one, two, tolerance):
    """The same weights, each to a part of its tensor's largest one."""
    assert one.keys() == two.keys()
    for key, value in one.items():
        if value.is_floating_point():
            assert (value - two[key]).abs().max() <= tolerance * value.abs().max().clamp_min(1e-3), key


def weights(folder):
    """Every tensor of every safetensors file in a folder."""
    return {
        (path.name, name): t
        for path in sorted(Path(folder).glob("*.safetensors"))
        for name, t in load_file(path).items()
    }


def table(folder):
    """evaluation.json without the seconds and the folder's name."""
    content = json.loads((Path(folder) / "evaluation.json").read_text())
    content.pop("sha256")
    for entry in content["models"].values():
        entry.pop("seconds"), entry.pop("clocks")
    for name in ("out", "checkpoint_every"):
        content["settings"].pop(name)
    return content
