"""What is looked at before the first step does not copy, draw or hash more than once as a set grows."""

import hashlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from untrain.data.checks import LOOKED_AT, check_samples, check_sets
from untrain.data.columns import Columns
from untrain.data.content import row_hashes
from untrain.data.splits import Subset as View
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import DataError
from untrain.tasks.classification.task import Classification

ENGINE = Engine(torch.device("cpu"))
CLASSES = 10
BYTES = 3 * 32 * 32
"""Of an image."""


class Copied(TorchDispatchMode):
    """Counts operations, and the bytes that they put into new memory."""

    calls = size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        new = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
        self.calls += 1
        self.size += sum(t.nbytes for t in new if t.untyped_storage().data_ptr() not in given)
        return made


class Counting(Classification):
    drawn = 0

    def draw(self, batch, generator, role):
        Counting.drawn += len(batch["label"])
        return super().draw(batch, generator, role)


def tensors(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator), torch.arange(
        count
    ) % CLASSES


def chained(count):
    x, y = tensors(count)
    return ConcatDataset([TensorDataset(x[:100], y[:100]), TensorDataset(x[100:], y[100:])])


SETS = {
    "tensors": lambda count: TensorDataset(*tensors(count)),
    "first part": lambda count: Subset(TensorDataset(*tensors(2 * count)), range(count)),
    "chained": chained,
    "columns": lambda count: Columns(dict(zip(("input", "label"), tensors(count), strict=True))),
    "view": lambda count: View(Columns(dict(zip(("input", "label"), tensors(2 * count), strict=True))), range(count)),
    "ready": lambda count: [{"input": x, "label": y} for x, y in zip(*(t.split(100) for t in tensors(count)))],
}


def look(kind, count):
    """Operations, copied bytes and drawn samples of all that is looked at."""
    sets = {"forget": TensorDataset(255 - tensors(50)[0], torch.arange(50) % CLASSES), "retain": SETS[kind](count)}
    Counting.drawn = 0
    with Copied() as copied:
        streams = {name: Stream(data, name, ENGINE) for name, data in sets.items()}
        check_sets(sets, streams)
        check_samples(Counting(num_classes=CLASSES), streams)
        streams["retain"].fingerprint()
    return copied.calls, copied.size, Counting.drawn


@pytest.mark.parametrize("kind", SETS)
def test_growth(kind):
    few, many = look(kind, 1_500), look(kind, 3_500)
    calls, copied, drawn = (b - a for a, b in zip(few, many, strict=True))
    assert drawn <= CLASSES, "labels are read, not drawn"
    assert copied < 2_000 * BYTES / 4, "positions are copied, numbers of 8 bytes a sample, and no image"
    assert calls < 2_000


def test_an_order_is_drawn_once_an_epoch():
    stream = Stream(TensorDataset(*tensors(1_000)), "retain", ENGINE, batch_size=30)
    with Copied() as copied:
        orders = [stream.indices(k) for k in range(99)]
    assert copied.size < 3 * 2 * 8 * 1_000 + 99 * 10 * 8 * 30
    again = Stream(stream.data, "retain", ENGINE, batch_size=30)
    assert all(torch.equal(again.indices(k), orders[k]) for k in (98, 0, 33, 34, 33, 66)), "whatever was asked before"


def test_a_label_that_does_not_fit_is_found_wherever_it_is():
    x, y = tensors(5_000)
    y[3_777] = CLASSES
    for data in (
        TensorDataset(x, y),
        [(x, y)],
        Columns({"input": x, "label": y}),
        ConcatDataset([TensorDataset(x, y)]),
    ):
        with pytest.raises(DataError, match=f"label {CLASSES} .first: index 3777"):
            check_samples(Classification(num_classes=CLASSES), {"retain": Stream(data, "retain", ENGINE)})
    assert len(y) > 10 * LOOKED_AT


def test_fingerprint_is_of_the_content_however_it_lies():
    x, y = tensors(3_000)
    rows = torch.randperm(3_000, generator=torch.Generator().manual_seed(1)).tolist()
    whole, shuffled = TensorDataset(x, y), TensorDataset(x[rows], y[rows])
    prints = [Stream(data, "retain", ENGINE).fingerprint() for data in (whole, shuffled, Subset(whole, rows))]
    assert prints[0] != prints[1]
    digest = hashlib.sha256()
    for name, tensor in (("index", torch.arange(3_000)), ("input", x), ("label", y)):
        digest.update(f'["{name}", "{tensor.dtype}", {list(tensor.shape)}]'.encode() + tensor.numpy().tobytes())
    assert prints[0] == digest.hexdigest()


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (0,)])
def test_hash_of_rows(kind, shape):
    """Equal rows have one hash, whatever is hashed with them; rows that differ, in a sign alone too, have others."""
    rows = torch.randn(40, *shape, generator=torch.Generator().manual_seed(0)).mul(99).to(kind)
    both = row_hashes(torch.cat([rows, rows]))
    assert (both[:40] == both[40:]).all()
    assert (both[:40] == row_hashes(rows)).all()
    flat = rows.reshape(40, -1)
    distinct = len({tuple(row) for row in flat.tolist()})
    assert len(set(both.tolist())) == distinct
    if kind.is_floating_point and flat.shape[1] > 1:
        assert not set(row_hashes(-rows).tolist()) & set(both.tolist())
        assert row_hashes(rows, salt=1)[0] != both[0]
    assert row_hashes(rows[:, None])[0] != both[0], "a row of another shape"
