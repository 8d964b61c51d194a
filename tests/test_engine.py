import pytest
import torch

from helpers import two_processes
from helpers.processes import torchrun
from untrain.engine import Engine, generator_of, on_device, seed_of, set_aside
from untrain.errors import SettingError


def test_two_processes_give_what_one_gives(tmp_path):
    """Tolerance 1e-12 of the largest value: float64, sums in another order, through 48 steps."""
    two_processes.main(tmp_path / "1.pt")
    torchrun(2, "two_processes", tmp_path / "2.pt")
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert one.keys() == two.keys()
    for name, value in one.items():
        worst = (value - two[name]).abs().max() / value.abs().max()
        assert worst <= 1e-12, (name, worst)


def test_shares_are_contiguous_and_complete():
    batch = {"index": torch.arange(7), "input": torch.randn(7, 2)}
    parts = [Engine(torch.device("cpu"), process=p, num_processes=3).shard(batch)["index"] for p in range(3)]
    assert torch.cat(parts).tolist() == list(range(7))
    few = [Engine(torch.device("cpu"), process=p, num_processes=3).shard({"index": torch.arange(1)}) for p in range(3)]
    assert sorted(len(part["index"]) for part in few) == [0, 0, 1]


def test_seeds_of_different_purposes_differ_and_stay():
    assert seed_of(0, "retain", 1) == seed_of(0, "retain", 1)
    assert len({seed_of(s, name, k) for s in (0, 1) for name in ("a", "b") for k in (0, 1)}) == 8
    assert torch.equal(torch.rand(3, generator=generator_of(5, "x")), torch.rand(3, generator=generator_of(5, "x")))


def test_seeds_on_a_cpu_are_kept_for_no_accelerator():
    """torch keeps a seed, with a traceback, for each kind that is not in use: a millisecond a step, never freed."""
    waiting = [len(kind._queued_calls) for kind in (torch.cuda, torch.xpu, torch.mtia)]
    with Engine(torch.device("cpu")).seeded(3):
        drawn = torch.rand(2)
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(3)))
    assert [len(kind._queued_calls) for kind in (torch.cuda, torch.xpu, torch.mtia)] == waiting


def test_devices_and_precisions_are_checked():
    with pytest.raises(SettingError, match="cannot be used"):
        Engine.start("cuda:99")
    with pytest.raises(SettingError, match="precision"):
        Engine.start("cpu", "fp8")


def test_clocks_add_up():
    engine = Engine(torch.device("cpu"))
    for _ in range(2):
        with engine.clock("steps"):
            torch.randn(10)
    assert set(engine.clocks) == {"steps"}
    assert engine.clocks["steps"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_close_to_full(precision):
    """A step at reduced precision moves weights in the same direction: cosine above 0.99."""
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 4)
    x, y = torch.randn(64, 20), torch.randint(0, 4, (64,))
    gradients = []
    for chosen in ("no", precision):
        engine = Engine(torch.device("cpu"), chosen)
        model.zero_grad()
        with engine.autocast():
            losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
        engine.backward(engine.mean(losses), list(model.parameters()))
        engine.scaler.unscale_(torch.optim.SGD(model.parameters(), 0.1))
        gradients.append(model.weight.grad.flatten().clone())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_modules_are_hosted_and_go_home_whatever_happens():
    """The meta device stands for another machine's."""
    here, empty = torch.nn.Linear(2, 2), torch.nn.Identity()
    there = torch.device("meta")
    with pytest.raises(KeyError), on_device(torch.device("cpu"), here, empty):
        raise KeyError
    assert next(here.parameters()).device.type == "cpu"
    away = torch.nn.Linear(2, 2, device=there)
    with on_device(there, away, here):
        assert next(here.parameters()).device == there
        here.to_empty(device="cpu")  # what lies on the meta device has no content to bring home
    assert next(here.parameters()).device.type == "cpu" and next(away.parameters()).device == there


def test_what_is_quantised_or_offloaded_is_left_where_it_is():
    plain, quantised, offloaded = (torch.nn.Linear(2, 2) for _ in range(3))
    quantised.is_quantized, offloaded._hf_hook = True, object()
    weights = [module.weight for module in (quantised, offloaded)]
    with on_device(torch.device("meta"), quantised, offloaded):
        assert {module.weight.device.type for module in (quantised, offloaded)} == {"cpu"}
    with set_aside(plain, quantised, offloaded):
        assert plain.weight.device.type == "cpu"
    assert all(module.weight is weight for module, weight in zip((quantised, offloaded), weights, strict=True))
