import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import untrain
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import DataError, ModelError, SettingError
from untrain.models.kinds import forward_names
from untrain.tasks.classification.task import Classification, augment, turn
from untrain.types import Task


def batch(rows=6, classes=5):
    g = torch.Generator().manual_seed(0)
    return {
        "input": torch.rand(rows, 3, generator=g),
        "label": torch.arange(rows) % classes,
        "index": torch.arange(rows) + 100,
    }


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_is_a_task():
    assert isinstance(Classification(), Task)


def test_loss_is_cross_entropy_per_sample_and_pure():
    model, task = nn.Linear(3, 5), Classification()
    losses = task.loss(model, batch())
    log_p = F.log_softmax(model(batch()["input"]), 1)
    expected = torch.stack([-log_p[i, y] for i, y in enumerate(batch()["label"])])
    assert torch.allclose(losses, expected)
    assert torch.equal(losses, task.loss(model, batch()))


def test_divergence_is_kl_from_target_to_output_with_temperature():
    task, outputs, targets = Classification(), torch.randn(4, 5), torch.randn(4, 5)
    p, q = (torch.softmax(logits / 3, 1) for logits in (targets, outputs))
    expected = (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(task.divergence(outputs, targets, 3.0), expected, atol=1e-6)
    assert task.divergence(targets, targets).abs().max() < 1e-6


def test_a_redirected_label_is_another_one_and_stays():
    task = Classification(num_classes=5)
    first = task.variant(batch(), "redirect")["label"]
    assert (first != batch()["label"]).all()
    swapped = {key: value.flip(0) for key, value in batch().items()}
    assert torch.equal(task.variant(swapped, "redirect")["label"], first.flip(0))
    many = {**batch(4000), "label": torch.zeros(4000, dtype=torch.long)}
    counts = task.variant(many, "redirect")["label"].bincount(minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 120  # four standard deviations of a fair draw


def test_roles_augment_only_in_training():
    images = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    given = {"input": images, "label": torch.zeros(8, dtype=torch.long), "index": torch.arange(8)}
    task = Classification(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), pad=2, flip=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    plain = (images / 255 - mean) / std
    for role in ("fisher", "evaluate"):
        assert torch.allclose(task.draw(given, generator(), role)["input"], plain, atol=1e-5)
    for role in ("train", "retain", "forget"):
        drawn = task.draw(given, generator(), role)["input"]
        assert not torch.allclose(drawn, plain)
        assert torch.equal(drawn, task.draw(given, generator(), role)["input"])


def test_what_a_user_passes_is_not_touched():
    given = batch()
    assert torch.equal(Classification().draw(given, generator(), "retain")["input"], given["input"])


def test_augmentation_equals_the_obvious_loop():
    images = torch.randint(0, 256, (5, 2, 4, 4), dtype=torch.uint8)
    found = augment(images, 1, True, generator())
    g = generator()
    top, left = torch.randint(0, 3, (2, 5), generator=g)
    mirrored = torch.rand(5, generator=g) < 0.5
    for i in range(5):
        crop = F.pad(images[i], (1, 1, 1, 1))[:, top[i] : top[i] + 4, left[i] : left[i] + 4]
        assert torch.equal(found[i], crop.flip(2) if mirrored[i] else crop)


def test_images_turn_as_pillow_turns_them():
    """By the nearest pixel. Pillow computes in fixed point, so a place between two pixels can go either way."""
    images = torch.randint(0, 256, (41, 3, 32, 28), dtype=torch.uint8, generator=generator())
    degrees = torch.linspace(-60.3, 59.6, 41, dtype=torch.float64)
    found, other = turn(images, degrees), 0
    for image, turned, angle in zip(images, found, degrees.tolist(), strict=True):
        theirs = Image.fromarray(image.permute(1, 2, 0).numpy()).rotate(angle, Image.Resampling.NEAREST)
        other += int((torch.from_numpy(np.array(theirs)).permute(2, 0, 1) != turned).sum())
    assert other < found.numel() / 1000
    assert torch.equal(turn(images, torch.zeros(41, dtype=torch.float64)), images)
    assert not torch.equal(found, images)


def test_every_image_is_turned_by_its_own_angle_after_the_crop():
    images = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8, generator=generator())
    given = {"input": images, "label": torch.zeros(6, dtype=torch.long)}
    plain = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    drawn = Classification(**plain, pad=1, flip=True, rotate=15.0).draw(given, generator(), "train")["input"]
    g = generator()
    cropped = augment(images, 1, True, g)
    angles = 15 * (2 * torch.rand(6, generator=g, dtype=torch.float64) - 1)
    torch.testing.assert_close(drawn, turn(cropped, angles).float(), rtol=0, atol=1e-3)
    assert len(angles.unique()) == 6
    unturned = Classification(**plain, pad=1, flip=True).draw(given, generator(), "train")["input"]
    torch.testing.assert_close(unturned, cropped.float(), rtol=0, atol=1e-3)


def test_names_are_mapped_and_hugging_face_outputs_understood():
    class Answer:
        logits = torch.zeros(2, 4)

    class Model(nn.Module):
        def forward(self, x):
            return Answer()

    given = {"pixel_values": torch.zeros(2, 3), "labels": torch.tensor([0, 1])}
    task = Classification(names={"pixel_values": "input", "labels": "label"})
    drawn = task.draw(given, generator(), "retain")
    assert task.prepare(Model(), drawn).num_classes == 4


def test_prepare_says_what_does_not_fit():
    model = nn.Linear(3, 5)
    assert Classification().prepare(model, batch()).num_classes == 5
    with pytest.raises(ModelError, match="cannot run on a batch of shape"):
        Classification().prepare(nn.Linear(4, 5), batch())
    with pytest.raises(ModelError, match=r"logits \[B, classes\]"):
        Classification().prepare(nn.Flatten(0), batch())
    with pytest.raises(ModelError, match="has 5 outputs"):
        Classification(num_classes=7).prepare(model, batch())
    with pytest.raises(DataError, match="no 'label'"):
        Classification().prepare(model, {"input": torch.zeros(1, 3), "target": torch.zeros(1)})


def test_labels_outside_the_outputs_are_named():
    task = Classification(num_classes=4)
    with pytest.raises(DataError, match="label 4 .first: index 104. lies outside"):
        task.draw(batch(), generator(), "retain")
    with pytest.raises(DataError, match="whole numbers"):
        task.draw({**batch(), "label": torch.zeros(6)}, generator(), "retain")


def test_contradictions():
    with pytest.raises(SettingError, match="mean and std"):
        Classification(mean=(0.5,))
    with pytest.raises(SettingError, match="above 0"):
        Classification(mean=(0.5,), std=(0.0,))
    with pytest.raises(SettingError, match="unconditional"):
        Classification(num_classes=3).variant(batch(), "unconditional")


# ── what the model is given ─────────────────────────────────────────────────────────────────────────────────────


def padded_texts(rows=48, length=12):
    """Texts of unequal length as a tokenizer pads them: two thirds of what is padding is no zero token."""
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, length + 1, (rows,), generator=g)
    mask = (torch.arange(length) < lengths[:, None]).long()
    tokens = torch.randint(1, 30, (rows, length), generator=g)
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.arange(rows) % 3}


def bert():
    config = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows["labels"])

    def __getitem__(self, i):
        return {key: value[i] for key, value in self.rows.items()}


@pytest.mark.parametrize("hand_over", [Rows, lambda texts: [texts], lambda texts: DataLoader(Rows(texts), 16)])
def test_the_mask_of_padded_texts_is_used(hand_over):
    model, texts = bert(), padded_texts()
    stream = Stream(hand_over(texts), "test", Engine(torch.device("cpu")))
    drawn = [*stream.once(Classification(), "evaluate")]
    task = Classification().prepare(model, drawn[0])
    with torch.no_grad():
        found = torch.cat([task.outputs(model, batch) for batch in drawn])
        by_hand = model(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]).logits
        without = model(input_ids=texts["input_ids"]).logits
    assert torch.allclose(found, by_hand, atol=1e-6)
    assert (without - by_hand).abs().max() > 1e-3
    assert (task.input, task.passed) == ("input_ids", ("attention_mask",))


@pytest.mark.filterwarnings("ignore:torch.func cannot run this model")  # attention looks at its mask's values
def test_masked_texts_forget_and_are_measured():
    texts, model = padded_texts(), bert()
    forget, retain = ({key: value[part] for key, value in texts.items()} for part in (slice(8), slice(8, 48)))
    result = untrain.unlearn(model, forget=Rows(forget), retain=Rows(retain), steps=2, batch_size=8, device="cpu")
    scores = untrain.evaluate(result.model, forget=Rows(forget), retain=Rows(retain), test=[retain], device="cpu")
    with torch.no_grad():
        logits = result.model(input_ids=forget["input_ids"], attention_mask=forget["attention_mask"]).logits
    assert scores.FA == pytest.approx(100 * (logits.argmax(1) == forget["labels"]).double().mean().item())


@pytest.mark.filterwarnings("ignore:torch.func cannot run this model")  # attention looks at its mask's values
def test_fisher_of_masked_texts_is_that_of_single_samples():
    texts, model = padded_texts(6), bert().double()
    found = untrain.fisher_diagonal(model, "classification", [texts])
    expected = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for i in range(6):
        row = {key: texts[key][i : i + 1] for key in ("input_ids", "attention_mask")}
        loss = F.cross_entropy(model(**row).logits, texts["labels"][i : i + 1])
        for (name, _), g in zip(
            model.named_parameters(), torch.autograd.grad(loss, [*model.parameters()], allow_unused=True), strict=True
        ):
            expected[name] += 0 if g is None else g.square() / 6
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value, rtol=1e-4, atol=1e-10), name


class Told(nn.Module):
    """Says what it was given."""

    def forward(self, mask, pixel_values, label=None, y=None):
        self.given = mask, pixel_values, label, y
        return torch.zeros(len(pixel_values), 5) + pixel_values.sum()


def test_each_argument_gets_what_is_called_so_and_labels_are_not_passed():
    drawn = {"pixel_values": torch.full((2, 3), 2.0), "mask": torch.ones(2, 3), "y": torch.tensor([0, 1])}
    model = Told()
    drawn = Classification().draw(drawn, generator(), "retain")
    task = Classification().prepare(model, drawn)
    task.outputs(model, drawn)
    assert torch.equal(model.given[0], drawn["mask"]) and torch.equal(model.given[1], drawn["pixel_values"])
    assert model.given[2:] == (None, None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_model_is_asked_what_is_inside(wrap):
    assert forward_names(wrap(Told())) == ("mask", "pixel_values", "label", "y")


@pytest.mark.parametrize("name", ["label", "labels", "y", "target", "targets"])
@pytest.mark.parametrize("key", ["input", "image", "img", "pixel_values", "x", "features"])
def test_names_that_people_have(name, key):
    model = nn.Linear(3, 5)
    drawn = Classification().draw({key: torch.ones(2, 3), name: torch.tensor([1, 0])}, generator(), "retain")
    task = Classification().prepare(model, drawn)
    assert torch.equal(task.outputs(model, drawn), model(torch.ones(2, 3)))
    assert task.condition(drawn).tolist() == [1, 0]


def test_images_are_normalised_under_their_own_name():
    task = Classification(mean=(0.5,), std=(0.25,))
    images = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    drawn = task.draw({"pixel_values": images, "labels": torch.tensor([0, 1])}, generator(), "retain")
    assert torch.equal(drawn["pixel_values"], torch.full((2, 1, 2, 2), 2.0))


def test_what_nothing_uses_is_said():
    given = {**batch(), "token_type_ids": torch.zeros(6, 3), "id": torch.arange(6)}
    with pytest.warns(UserWarning, match=r"^'token_type_ids' of the data is used by nothing"):
        Classification().prepare(nn.Linear(3, 5), given)
