"""Situations from public reports about other tools: scripts in `cases/` that exit with 1 where the fault is there.

Each runs by itself too: `python tests/cases/NAME.py`.
"""

import os
import runpy
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

CASES = sorted(path for path in (Path(__file__).parent / "cases").glob("*.py") if not path.name.startswith("_"))


@pytest.fixture
def own_process(tmp_path, monkeypatch):
    """What a script changes in its process is as before afterwards; its folders lie in the test's."""
    threads, path, environment, loaded = torch.get_num_threads(), [*sys.path], {**os.environ}, {*sys.modules}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sys.path.insert(0, str(CASES[0].parent))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    torch.set_num_threads(threads)
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    for name in {*sys.modules} - loaded:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == CASES[0].parent:
            del sys.modules[name]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("own_process")
def test_case(case, capsys):
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(case), run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().out
