import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from untrain.errors import DataError, ModelError, SettingError
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
