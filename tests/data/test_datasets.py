"""Data as people hold them: the same samples give the same weights, however they are handed over."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from untrain import evaluate, fisher_diagonal, unlearn
from untrain.data.columns import Columns
from untrain.data.datasets import unwrap
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import DataError
from untrain.tasks.classification.task import Classification

ENGINE = Engine(torch.device("cpu"))
G = torch.Generator().manual_seed(0)
Y = torch.arange(96) % 4
X = torch.randn(96, 6, generator=G) + Y[:, None]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


class Masked(Dataset):
    """Dicts with names of other people's and a mask of ones."""

    def __init__(self, rows):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {"features": X[self.rows[i]], "mask": torch.ones(6), "targets": int(Y[self.rows[i]])}


class Reader(nn.Module):
    """Uses a mask where it is given one."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, features, mask=None):
        return self.net(features if mask is None else features * mask)


def table(rows, style="torch"):
    rows = list(rows)
    return datasets.Dataset.from_dict({"input": X[rows].tolist(), "label": Y[rows].tolist()}).with_format(style)


def tensors(rows):
    rows = list(rows)
    return TensorDataset(X[rows], Y[rows])


WHOLE = TensorDataset(X, Y)
TABLE = table(range(96), None)
CHAINED = ConcatDataset([tensors(range(40)), Subset(WHOLE, range(40, 70)), tensors(range(70, 96))])
FORMS = {
    "tensors": tensors,
    "torch subset": lambda rows: Subset(WHOLE, rows),
    "subset of chained sets": lambda rows: Subset(CHAINED, rows),
    "table": lambda rows: table(rows, None),
    "table of tensors": table,
    "table of arrays": lambda rows: table(rows, "numpy"),
    "table with a transform": lambda rows: table(rows, None).with_transform(
        lambda batch: {"x": [torch.tensor(row) for row in batch["input"]], "y": batch["label"]}
    ),
    "selected rows of a table": lambda rows: TABLE.select(rows),
    "torch subset of a table": lambda rows: Subset(TABLE, rows),
    "chained tables": lambda rows: Subset(ConcatDataset([TABLE.select(range(50)), TABLE.select(range(50, 96))]), rows),
    "loader": lambda rows: DataLoader(tensors(rows), 16),
    "loader of a table": lambda rows: DataLoader(table(rows), 16, shuffle=True, drop_last=True),
    "loader that collates": lambda rows: DataLoader(
        tensors(rows), 16, collate_fn=lambda samples: {"x": torch.stack([s[0] for s in samples]),
                                                       "y": torch.stack([s[1] for s in samples])}
    ),
    "loader of a list": lambda rows: DataLoader([(X[i], int(Y[i])) for i in rows], 16),
    "columns": lambda rows: Columns({"input": X[list(rows)], "label": Y[list(rows)]}),
}  # fmt: skip
PARTS = {"forget": range(16), "retain": range(16, 72), "holdout": range(72, 96)}


def weights(make, model=network, **settings):
    sets = {name: make(rows) for name, rows in PARTS.items()}
    settings = {"batch_size": 16, "steps": 3, "device": "cpu", **settings}
    return unlearn(model(), **sets, **settings).model.state_dict()


@pytest.fixture(scope="module")
def expected():
    return weights(tensors)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_samples_give_the_same_weights(form, expected):
    found = weights(FORMS[form])
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_mask_of_ones_changes_nothing(expected):
    found = weights(Masked, Reader)
    assert all(torch.equal(found[f"net.{name}"], value) for name, value in expected.items())


@pytest.mark.parametrize("form", FORMS)
def test_the_same_samples_are_measured_alike(form):
    model, make = network(), FORMS[form]
    sets = {"forget": range(16), "retain": range(16, 72), "test": range(72, 96)}
    found = evaluate(model, **{name: make(rows) for name, rows in sets.items()}, device="cpu")
    logits = model(X).argmax(1)
    for measure, name in (("FA", "forget"), ("RA", "retain"), ("TA", "test")):
        rows = list(sets[name])
        assert getattr(found, measure) == pytest.approx(100 * (logits[rows] == Y[rows]).double().mean().item())


def test_sets_that_are_measured_and_share_samples_are_warned_of():
    sets = {"forget": Subset(WHOLE, range(16)), "retain": Subset(WHOLE, range(16, 72)), "test": Subset(WHOLE, [71, 72])}
    with pytest.warns(UserWarning, match="retain and test: 1 samples"):
        evaluate(network(), **sets, device="cpu")


@pytest.mark.parametrize("form", FORMS)
def test_fisher_is_the_same(form):
    model = network()
    expected = fisher_diagonal(model, "classification", [(X, Y)])
    found = fisher_diagonal(model, "classification", FORMS[form](range(96)))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-9), "sums in another order"


def test_batches_that_an_iterable_yields_count_for_fisher():
    expected = fisher_diagonal(network(), "classification", [(X[:50], Y[:50]), (X[50:], Y[50:])])
    found = fisher_diagonal(network(), "classification", iter([(X[:50], Y[:50]), (X[50:], Y[50:])]))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_random_split():
    forget, retain = random_split(WHOLE, [16, 80], generator=torch.Generator().manual_seed(0))
    own, rest = (Subset(WHOLE, part.indices) for part in (forget, retain))
    a = unlearn(network(), forget=forget, retain=retain, steps=2, device="cpu").model
    b = unlearn(network(), forget=own, retain=rest, steps=2, device="cpu").model
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


# ── loaders ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loaders_batch_size_counts_unless_one_is_given():
    sets = {"forget": DataLoader(tensors(range(16)), 8), "retain": DataLoader(tensors(range(16, 96)), 20)}
    result = unlearn(network(), **sets, method="finetune", epochs=1, device="cpu")
    assert len(result.history) == 4
    assert any("retain: batches of 20, as in the DataLoader" in note for note in result.notes)
    result = unlearn(network(), **sets, method="finetune", epochs=1, device="cpu", batch_size=40)
    assert len(result.history) == 2
    assert any("retain: batches of 40, not of 20" in note for note in result.notes)


@pytest.mark.parametrize("sampler", [RandomSampler(WHOLE, num_samples=7), WeightedRandomSampler([1.0] * 96, 96)])
def test_the_order_of_a_loader_is_not_used_and_a_note_says_so(sampler):
    given = unwrap(DataLoader(WHOLE, 8, sampler=sampler), "retain")
    assert given.data is WHOLE
    assert "by seed" in given.notes[0]


def test_a_loader_of_some_samples_is_these_samples():
    given = unwrap(DataLoader(WHOLE, 8, sampler=SubsetRandomSampler([5, 3, 90])), "forget")
    assert sorted(given.data.indices) == [3, 5, 90]
    assert "3 samples" in given.notes[0]


def test_texts_of_unequal_length_are_padded_by_the_loader():
    rows = [{"x": torch.arange(n, dtype=torch.float32), "y": n % 2} for n in (3, 5, 2, 4)]

    def pad(samples):
        return {
            "x": nn.utils.rnn.pad_sequence([s["x"] for s in samples], batch_first=True),
            "y": torch.tensor([s["y"] for s in samples]),
        }

    batches = [*Stream(DataLoader(rows, 2, collate_fn=pad), "retain", ENGINE, 2).once(Classification(), "evaluate")]
    assert [tuple(batch["x"].shape) for batch in batches] == [(2, 5), (2, 4)]
    with pytest.raises(DataError, match="pad texts.*collate_fn"):
        next(Stream(DataLoader(rows, 2), "retain", ENGINE, 2).once(Classification(), "evaluate"))


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def pictures():
    images = [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(6)]
    features = datasets.Features({"image": datasets.Image(), "breed": datasets.ClassLabel(names=["a", "b"])})
    return datasets.Dataset.from_dict({"image": images, "breed": [0, 1] * 3}, features=features)


def test_images_of_a_table_need_a_transform():
    with pytest.raises(DataError, match="'image' of the forget set.*with_transform"):
        unwrap(pictures(), "forget")

    def transform(batch):
        pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() for image in batch["image"]]
        return {"pixel_values": pixels, "breed": batch["breed"]}

    batch = Stream(pictures().with_transform(transform), "forget", ENGINE).batch(0, Classification(), "evaluate")
    assert batch["label"].tolist() == (batch["index"] % 2).tolist(), "the one ClassLabel is the label"
    assert torch.equal(batch["pixel_values"][:, 0, 0, 0], batch["index"].float())


def test_columns_without_numbers_are_left_out_and_a_note_says_so():
    with_texts = table(range(96), None).add_column("text", ["a"] * 96)
    result = unlearn(
        network(), forget=with_texts.select(range(16)), retain=with_texts.select(range(16, 96)), steps=1, device="cpu"
    )
    assert any("'text'" in note for note in result.notes)
    ready = [{"input": X[:8], "label": Y[:8], "text": ["a"] * 8}]
    result = unlearn(network(), forget=ready, retain=tensors(range(16, 96)), steps=1, device="cpu")
    assert any("'text'" in note for note in result.notes)


def test_a_table_of_texts_needs_a_tokenizer():
    texts = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1], "id": [7, 8]})
    with pytest.raises(DataError, match="forget set has no column that could be the input: text.*Tokenise"):
        unwrap(texts, "forget")


def test_classes_of_a_table_that_are_texts_must_be_numbered():
    named = datasets.Dataset.from_dict({"input": X.tolist(), "label": [f"class {int(y)}" for y in Y]})
    with pytest.raises(DataError, match=r"'label' of the forget set.*class_encode_column\('label'\)"):
        unwrap(named, "forget")
    encoded = named.class_encode_column("label")
    unlearn(network(), forget=encoded.select(range(16)), retain=encoded.select(range(16, 96)), steps=1, device="cpu")


@pytest.mark.parametrize("first", ["tensors", "table with a transform", "named"])
def test_sets_may_have_names_of_their_own(first, expected):
    named = lambda rows: [dict(zip(("pixel_values", "targets"), tensors(rows)[:], strict=True))]  # noqa: E731
    sets = {"forget": {"named": named, **FORMS}[first](range(16)), "retain": tensors(range(16, 72))}
    holdout = named(range(72, 96))
    found = unlearn(network(), **sets, holdout=holdout, batch_size=16, steps=3, device="cpu").model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_is_called_as_ours_is_not_taken_for_ours():
    class Batched(Masked):
        """A data set with methods and attributes that mean something else."""

        in_memory = True
        source = ids = labels = "somewhere"

        def batch(self, size):
            raise RuntimeError("not yours")

        def to(self, device):
            raise RuntimeError("not yours")

        def fingerprint(self):
            raise RuntimeError("not yours")

        select = root = to

    unlearn(Reader(), forget=Batched(range(16)), retain=Batched(range(16, 96)), steps=1, device="cpu")
