"""What changed between two states, in the smallest of three forms: put back, it gives the new one to the last bit."""

import pytest
import torch
from torch import Tensor

from untrain.errors import CheckpointError, ModelError
from untrain.models.changed_values import (
    BITS,
    PLACES,
    VALUES,
    bytes_of_state,
    changed_values,
    put_values_,
    stem_of,
)

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def changed(tensor: Tensor, count: int) -> Tensor:
    other = tensor.clone()
    flat = other.view(-1)
    places = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:count]
    flat[places] = ~flat[places] if flat.dtype == torch.bool else flat[places] + 1
    return other


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize(("count", "form"), [(0, ()), (3, (PLACES, VALUES)), (300, (BITS, VALUES)), (1003, ("",))])
def test_the_form_is_the_smallest_and_exact(kind: torch.dtype, count: int, form: tuple[str, ...]) -> None:
    before = {"w": (torch.arange(1003) % 7).to(kind).view(17, 59)}
    after = {"w": changed(before["w"], count)}
    found, number = changed_values(before, after)
    assert number == count
    small = kind == torch.bool and count == 300  # one byte a value: as a bitmap it takes 300 + 126 of 1003
    assert {*found} == {f"w{ending}" for ending in form} or small
    size, whole = before["w"].element_size(), bytes_of_state(after)
    forms = (whole, count * (size + 4), count * size + -(-1003 // 8))
    assert bytes_of_state(found) == (min(forms) if count else 0)
    put_values_(before, found)
    assert bits(before["w"]) == bits(after["w"])


def test_bits_are_compared_not_numbers() -> None:
    nan = float("nan")
    before, after = {"w": torch.tensor([0.0, nan, 1.0])}, {"w": torch.tensor([-0.0, nan, 1.0])}
    found, count = changed_values(before, after)
    assert count == 1, "a NaN that stays is no change, and the sign of 0 is one"
    put_values_(before, found)
    assert bits(before["w"]) == bits(after["w"])


def test_memory_of_another_order_and_tied_weights_are_put_in() -> None:
    base = torch.arange(96.0).view(2, 3, 4, 4)
    last = base.clone(memory_format=torch.channels_last)
    new = changed(base, 5)
    found, _ = changed_values({"a": last, "b": last}, {"a": new, "b": new})
    put_values_({"a": last, "b": last}, found)
    assert torch.equal(last, new) and last.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_before_is_brought_to_the_type_after() -> None:
    half = {"w": torch.arange(64.0).half()}
    after = {"w": changed(half["w"].float(), 1)}
    found, count = changed_values(half, after)
    assert count == 1 and found["w" + VALUES].dtype == torch.float32 and stem_of("w" + VALUES) == "w"


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ModelError, match="architectures"):
        changed_values({"w": torch.zeros(2)}, {"w": torch.zeros(3)})


WRONG = {
    "unknown": {"v": torch.zeros(8)},
    "shape": {"w": torch.zeros(9)},
    "type": {"w": torch.zeros(8).half()},
    "two forms": {"w": torch.zeros(8), "w" + VALUES: torch.zeros(1)},
    "places outside": {"w" + PLACES: torch.tensor([8], dtype=torch.int32), "w" + VALUES: torch.zeros(1)},
    "places before": {"w" + PLACES: torch.tensor([-1], dtype=torch.int32), "w" + VALUES: torch.zeros(1)},
    "long places": {"w" + PLACES: torch.tensor([0]), "w" + VALUES: torch.zeros(1)},
    "no places": {"w" + VALUES: torch.zeros(1)},
    "no values": {"w" + PLACES: torch.tensor([0], dtype=torch.int32)},
    "too few values": {"w" + BITS: torch.tensor([3], dtype=torch.uint8), "w" + VALUES: torch.zeros(1)},
    "too many bits": {"w" + BITS: torch.tensor([1, 0], dtype=torch.uint8), "w" + VALUES: torch.zeros(1)},
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_and_nothing_changes(values: dict[str, Tensor]) -> None:
    state = {"a": torch.ones(2), "w": torch.ones(8)}
    with pytest.raises(CheckpointError, match="[vw]"):
        put_values_(state, {"a": torch.zeros(2), **values})
    assert bool((state["a"] == 1).all() and (state["w"] == 1).all())
