"""The pilot of traces: what its words mean, and that it refuses what no method has."""

from runpy import run_path

import pytest

from helpers.documents import ROOT
from untrain.errors import SettingError


def method_of(*given):
    return run_path(str(ROOT / "benchmarks" / "traces.py"))["method_of"](*given)


def test_words_are_a_method_with_settings_at_a_share_of_the_training():
    shrunk = method_of("shrink-sfron keep=0.4 split=1", 0.2, 300)
    assert (shrunk.name, shrunk.keep, shrunk.split, shrunk.budget) == ("shrink-sfron", 0.4, 1, 0.2)
    assert method_of("finetune", 0.2, 300).steps == 60
    assert method_of("shrink-perturb budget=null steps=7", 0.2, 300).steps == 7
    with pytest.raises(SettingError, match="kep"):
        method_of("shrink-sfron kep=0.4", 0.2, 300)
