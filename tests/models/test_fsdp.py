import pytest
import torch
from torch import nn

from helpers import fsdp_in_processes
from helpers.processes import run_in_processes
from untrain.engine import Engine
from untrain.errors import ModelError, SettingError
from untrain.methods import METHODS
from untrain.methods.base import check_divides
from untrain.methods.sfron import SFRon
from untrain.models.fsdp import DividedModule, layers_gathered

CPU = torch.device("cpu")


def test_two_processes_with_half_the_weights_each_give_what_one_gives(tmp_path):
    """What is in `fsdp_in_processes` runs. Tolerance 1e-12 of the largest value: float64, sums in another order.

    1e-10 for attention under Adam: the biases of keys have no gradient but for rounding, which Adam divides by its own
    size. 1e-5 in float32, under SGD.
    """
    fsdp_in_processes.main(tmp_path, False)
    run_in_processes(2, tmp_path, fsdp_in_processes.main, tmp_path, True)
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert one.keys() == two.keys()
    assert set(fsdp_in_processes.NAMES) < {key.split("/")[0] for key in one}
    wider = {"resumed": 1e-10, "taught": 1e-10, "narrow": 1e-5}
    for name, value in one.items():
        tolerance = wider.get(name.split("/")[0], 1e-12)
        assert (value - two[name]).abs().max() <= tolerance * value.abs().max(), name


def test_each_method_says_for_itself_whether_it_runs_on_divided_weights():
    assert sorted(fsdp_in_processes.NAMES) == sorted(name for name, method in METHODS.items() if method.divides)
    derived = type("Derived", (SFRon,), {})
    with pytest.raises(SettingError, match="sfron"):
        check_divides(derived)


def test_one_process_has_nobody_to_share_weights_with():
    with pytest.raises(SettingError, match="there is one"):
        Engine.start("cpu", fsdp=True)


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def mixed():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].double()
    return model


def quantised():
    model = nn.Linear(2, 2)
    model.is_quantized = True
    return model


@pytest.mark.parametrize(("build", "culprit"), [(Scalar, "scale"), (mixed, "float64"), (quantised, "quantised")])
def test_weights_that_cannot_be_divided_are_refused(build, culprit):
    with pytest.raises(ModelError, match=culprit):
        DividedModule.of(build(), lambda module: torch.zeros(1), Engine(CPU, num_processes=2, fsdp=True))


def test_layers_are_gathered_one_by_one_where_they_are_called_and_share_no_weights():
    inner, small = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), nn.Linear(1, 1, bias=False)
    tied = nn.ModuleList([nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)])
    tied[0].weight = tied[1].weight
    model = nn.ModuleDict({"inner": inner, "small": small, "tied": tied})
    every = {name for name, _ in model.named_modules()}
    assert layers_gathered(model, every) == [*inner, tied]
    assert layers_gathered(model, every - {"inner.0", "inner.1", "tied"}) == [inner]
