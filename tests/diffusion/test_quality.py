"""Measures of generated images: against independent float64 formulas, in closed form, and what they refuse."""

import math
import sys
import types
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from untrain.diffusion import quality as generation
from untrain.diffusion.features import (
    Features,
    Generated,
    Real,
    Seen,
    classifier_features,
    inception_features,
)
from untrain.diffusion.quality import (
    classifier_score,
    evaluate_samples,
    frechet_distance,
    halves,
    precision_recall,
    recognised,
)
from untrain.errors import CheckpointError, DataError, ModelError, SettingError
from untrain.models.classifiers import build

CLASSES = ("zero", "one", "two")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count, seed=0, channels=1):
    return torch.randint(
        0, 256, (count, channels, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def seen(points, origin, labels=None):
    labels = torch.zeros(len(points), dtype=torch.int64) if labels is None else labels
    return Seen(origin, labels, points, None, torch.zeros(len(points), 2), "net")


def scaled(x):
    return x.float() / 127.5 - 1


# Distances.


def frechet_by_scipy(a, b):
    """The formula of Heusel et al. with an explicit matrix root, by numpy and scipy."""
    a, b = a.double().numpy(), b.double().numpy()
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e6, 1e-2), (-3.0, 50.0)])
def test_frechet_distance_is_that_of_an_explicit_matrix_root(offset, scale):
    mixing = drawn(6, 6, seed=3)
    one, other = drawn(500, 6) @ mixing * scale + offset, drawn(300, 6, seed=1) * scale + 0.3 * scale + offset
    expected = frechet_by_scipy(one - offset, other - offset)  # the distance knows no offset
    # sqrtm of scipy loses about half of the digits
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-9)


def test_frechet_distance_in_closed_form():
    points = drawn(50, 4)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points, points + 2.0) == pytest.approx(4 * 2.0**2)
    variances = points.T.cov().trace().item()
    assert frechet_distance(points, 3 * (points - points.mean(0)) + points.mean(0)) == pytest.approx(4 * variances)


def test_frechet_distance_bears_features_that_never_change():
    points = drawn(50, 4)
    points[:, 2] = 0.0  # a unit that is never active
    assert frechet_distance(points, points + 1.0) == pytest.approx(4, abs=1e-5)


def test_frechet_distance_refuses_too_few_samples():
    with pytest.raises(DataError, match="more samples than features: 8 for 8"):
        frechet_distance(drawn(20, 8), drawn(8, 8))


def inside_slowly(points, manifold, k):
    """Share of points within any ball whose radius is the distance to its centre's k-th neighbour, one by one."""
    count = 0
    for p in points:
        for i, centre in enumerate(manifold):
            others = sorted(float((q - centre).norm()) for j, q in enumerate(manifold) if j != i)
            if float((p - centre).norm()) <= others[k - 1]:
                count += 1
                break
    return 100 * count / len(points)


@pytest.mark.parametrize("at_once", [1 << 24, 1, 100])
def test_precision_and_recall_are_those_of_a_search_one_by_one(monkeypatch, at_once):
    monkeypatch.setattr(generation, "AT_ONCE", at_once)
    real, made = drawn(40, 3), 0.6 * drawn(30, 3, seed=1) + 0.9
    precision, recall = precision_recall(real=seen(real, "real"), generated=seen(made, "generated"), k=2)
    assert precision == pytest.approx(inside_slowly(made, real, 2))
    assert recall == pytest.approx(inside_slowly(real, made, 2))
    assert 0 < recall < precision < 100  # a narrow cloud beside a wide one


def test_no_more_distances_are_held_than_allowed(monkeypatch):
    monkeypatch.setattr(generation, "AT_ONCE", 1000)
    sizes, whole = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b: sizes.append(len(a) * len(b)) or whole(a, b))
    precision_recall(real=seen(drawn(90, 2), "real"), generated=seen(drawn(110, 2, seed=1), "generated"))
    assert max(sizes) <= 1000
    assert sum(sizes) == 90 * 90 + 110 * 110 + 2 * 90 * 110


def test_precision_and_recall_of_equal_and_of_distant_sets():
    points = drawn(30, 3)
    near = precision_recall(real=seen(points, "real"), generated=seen(points.clone(), "generated"))
    far = precision_recall(real=seen(points, "real"), generated=seen(points + 100, "generated"))
    assert (near, far) == ((100, 100), (0, 0))


def test_collapsed_samples_are_precise_and_recall_little():
    real = drawn(50, 3)
    made = real[:1] + 1e-3 * drawn(50, 3, seed=1)
    precision, recall = precision_recall(real=seen(real, "real"), generated=seen(made, "generated"))
    assert precision == 100
    assert recall <= 2


# The score.


def test_score_in_closed_form():
    sure = 1000 * torch.eye(10)
    assert classifier_score(sure.repeat(20, 1)) == pytest.approx(10)  # sure, and all classes alike
    assert classifier_score(sure[:1].repeat(50, 1)) == pytest.approx(1)  # sure, and one class
    assert classifier_score(torch.zeros(50, 10)) == pytest.approx(1)  # unsure


def test_score_is_that_of_torchmetrics_and_of_the_formula():
    from torchmetrics.image.inception import InceptionScore

    logits = 3 * drawn(400, 7)
    probs = logits.softmax(1).numpy()
    formula = math.exp((probs * (np.log(probs) - np.log(probs.mean(0)))).sum(1).mean())
    assert classifier_score(logits) == pytest.approx(formula, rel=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps what it is given, and that one part has no spread
        metric = InceptionScore(feature=nn.Identity(), splits=1)
        metric.update(logits)
        theirs = metric.compute()[0].item()
    assert classifier_score(logits) == pytest.approx(theirs, rel=1e-12)


def test_parts_of_a_score_each_hold_all_classes():
    logits = 1000 * torch.eye(4).repeat_interleave(48, dim=0)  # sorted by class, as samples come
    assert classifier_score(logits, split=48) == pytest.approx(4)


# What is recognised.


def test_recognised_in_closed_form():
    p = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    found = recognised(generated=Seen("generated", torch.tensor([0, 0, 2]), torch.zeros(3, 1), None, p.log(), "net"))
    assert set(found) == {0, 2}
    entropies = -(p * p.log()).sum(1)
    assert (found[0].share, found[0].count) == (50, 2)
    assert found[0].probability == pytest.approx(0.35)
    assert found[0].entropy == pytest.approx(entropies[:2].mean().item())
    assert (found[2].share, found[2].probability) == (100, pytest.approx(0.8))


# Real and generated.


def test_real_and_generated_cannot_be_swapped():
    labels = torch.arange(60) % 3
    network = classifier_features(build("small-cnn", num_classes=3, in_channels=1, width=4), scaled, "net")
    real, made = Real(images(60), labels), Generated(images(60, seed=1), labels)
    in_real, in_made = network.look(real), network.look(made)
    common = {"forgotten": [0], "classes": CLASSES, "judge": network, "features": network}
    with pytest.raises(DataError, match=r"generated= must be Generated\(…\), not Real\(…\)"):
        evaluate_samples(generated=real, real=in_real, **common)
    with pytest.raises(DataError, match=r"real= must be .*Real\(…\).* not what one sees in generated images"):
        evaluate_samples(generated=made, real=in_made, **common)
    with pytest.raises(DataError, match=r"real= must be .*features\.look.* not Real\(…\)"):
        evaluate_samples(generated=made, real=real, **common)
    with pytest.raises(DataError, match="real= must be"):
        precision_recall(real=in_made, generated=in_real)
    with pytest.raises(DataError, match="generated= must be"):
        recognised(generated=in_real)
    with pytest.raises(DataError, match="real= must be"):
        halves(real=in_made)
    with pytest.raises(TypeError):
        precision_recall(in_real, in_made)
    with pytest.raises(DataError, match="not Tensor"):
        network.look(made.images)


@pytest.mark.parametrize(
    ("pictures", "labels", "words"),
    [
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), r"uint8 .* not torch\.float32"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "1 or 3"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "1 or 3"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\[2\], whole numbers"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2), r"\[2\], whole numbers"),
    ],
)
@pytest.mark.parametrize("kind", [Real, Generated])
def test_images_of_the_wrong_kind_are_refused(kind, pictures, labels, words):
    with pytest.raises(DataError, match=words):
        kind(pictures, labels)


# Feature networks.


def test_features_of_a_classifier_are_what_its_last_layer_gets():
    module = build("small-cnn", num_classes=3, in_channels=1, width=4).train()
    made = Generated(images(10), torch.arange(10) % 3)
    found = classifier_features(module, scaled, "small-cnn").look(made, batch_size=3)
    assert module.training
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    module.eval()
    with torch.no_grad():
        maps = module[:-3](scaled(made.images))  # before pooling, flattening and the last layer
        pooled = maps.mean((2, 3))
        torch.testing.assert_close(found.pooled, pooled)
        torch.testing.assert_close(found.spatial, maps[:, :7].flatten(1))
        torch.testing.assert_close(found.logits, module[-1](pooled))
    assert found.spatial.shape == (10, 7 * 2 * 2)
    assert (found.origin, found.network, found.inception) == ("generated", "small-cnn", False)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 8)

    def forward(self, x):
        return self.conv(x).flatten(1)


def test_networks_without_the_layers_are_refused_or_have_no_spatial_features():
    made = Generated(images(5), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ModelError, match=r"mine has no nn\.Linear"):
        classifier_features(Convolutional(), scaled, "mine").look(made)
    with pytest.raises(ModelError, match=r"mine: .*\(5, 1, 8, 8\)"):
        classifier_features(nn.Linear(8, 3), scaled, "mine").look(made)
    flat = classifier_features(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), scaled, "flat")
    assert flat.look(made).spatial is None
    with pytest.raises(DataError, match="not finite"):
        classifier_features(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), lambda x: scaled(x) / 0, "mine").look(made)
    with pytest.raises(DataError, match="no real images"):
        flat.look(Real(images(0), torch.zeros(0, dtype=torch.int64)))


def test_a_hugging_face_classifier_gives_features():
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, layer_type="basic"
    )
    module = ResNetForImageClassification(config)
    found = classifier_features(module, lambda x: nn.functional.interpolate(scaled(x), 32), "resnet").look(
        Generated(images(4), torch.zeros(4, dtype=torch.int64))
    )
    assert (found.pooled.shape, found.logits.shape) == ((4, 16), (4, 3))
    assert found.spatial.shape == (4, 7 * 4 * 4)


def test_missing_inception_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(SettingError, match=r"pip install torch-fidelity"):
        inception_features()
    with pytest.raises(CheckpointError, match="no Inception weights at"):
        inception_features(tmp_path / "none.pth")


class StandIn(nn.Module):
    """With the layers and outputs of torch-fidelity's class that are used, and none of its weights."""

    def __init__(self, name, features, weights):
        super().__init__()
        self.given = (features, weights)
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 10, 3, stride=2)

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        pooled = self.Mixed_6d.branch1x1(scaled(x)).flatten(1)[:, :4]
        return pooled, pooled[:, :3]


def test_inception_is_asked_for_what_the_published_distances_take(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.SimpleNamespace(FeatureExtractorInceptionV3=StandIn))
    (tmp_path / "weights.pth").write_bytes(b"")
    features = inception_features(tmp_path / "weights.pth")
    assert features.network.given == (["2048", "logits_unbiased"], str(tmp_path / "weights.pth"))
    labels = torch.arange(90) % 3
    real = features.look(Real(images(90), labels))
    assert real.spatial.shape == (90, 7 * 3 * 3)
    found = evaluate_samples(
        generated=Generated(images(90, seed=1), labels), real=real, forgotten=[0], classes=CLASSES, judge=features,
        features=features,
    ).to_dict()  # fmt: skip
    assert {"FID", "sFID", "IS"} <= set(found)
    assert not {"FD", "sFD", "CS", "inception"} & set(found)


# All together.


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return classifier_features(build("small-cnn", num_classes=3, in_channels=1, width=4), scaled, "small-cnn")


def test_evaluation_joins_the_measures_of_forgotten_and_retained(network):
    real = network.look(Real(images(200), torch.arange(200) % 3))
    made = Generated(images(150, seed=1), torch.arange(150) % 3)
    found = evaluate_samples(generated=made, real=real, forgotten=[1], classes=CLASSES, judge=network, features=network)
    logits = network.look(made).logits
    right = logits.argmax(1) == made.conditions
    by_class = {c: 100 * right[made.conditions == i].double().mean().item() for i, c in enumerate(CLASSES)}
    assert found.by_class["recognised"] == pytest.approx(by_class)
    assert found.FA == pytest.approx(by_class["one"])
    assert found.RA == pytest.approx((by_class["zero"] + by_class["two"]) / 2)
    assert found.RA_worst == pytest.approx(min(by_class["zero"], by_class["two"]))
    assert found.samples == {"forgotten": 50, "retained": 100}
    kept, view = real.labels != 1, network.look(made)
    assert found.FD == pytest.approx(frechet_distance(real.pooled[kept], view.pooled[made.conditions != 1]))
    assert found.sFD == pytest.approx(frechet_distance(real.spatial[kept], view.spatial[made.conditions != 1]))
    assert found.missing == {}
    assert found.to_dict()["CS"] == pytest.approx(classifier_score(logits[made.conditions != 1]))
    assert "FID" not in found.to_dict()


def test_order_and_batch_size_change_nothing(network):
    real, order = (
        Real(images(120), torch.arange(120) % 3),
        torch.randperm(90, generator=torch.Generator().manual_seed(5)),
    )
    made = Generated(images(90, seed=1), torch.arange(90) % 3)
    turned = Generated(made.images[order], made.conditions[order])
    common = {"forgotten": [2], "classes": CLASSES, "judge": network, "features": network, "real": network.look(real)}
    first = evaluate_samples(generated=made, **common)
    second = evaluate_samples(generated=turned, batch_size=7, **common)
    for name in ("FA", "RA", "RA_worst", "forget_probability", "FD", "sFD", "CS", "precision", "recall"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), rel=1e-5), name


def test_too_few_samples_leave_a_reason_with_both_numbers_and_the_setting(network):
    real = network.look(Real(images(200), torch.arange(200) % 3))
    made = Generated(images(9, seed=1), torch.arange(9) % 3)
    common = {"forgotten": [0], "classes": CLASSES, "judge": network, "features": network}
    found = evaluate_samples(generated=made, real=real, setting="evaluation.samples", **common)
    assert found.FD is None
    assert found.missing["FD"] == (
        "there are 6 generated images of retained classes, and more than 8 are needed (small-cnn has as many "
        "features): raise evaluation.samples"
    )
    assert set(found.missing) == {"FD", "sFD"}
    assert found.precision is not None
    few = evaluate_samples(generated=Generated(made.images[:2], made.conditions[:2]), real=real, **common)
    assert {"FD", "sFD", "precision", "recall"} == set(few.missing)
    gone = evaluate_samples(generated=Generated(made.images[::3], made.conditions[::3]), real=real, **common)
    assert {"RA", "RA_worst", "CS"} < set(gone.missing)
    assert gone.RA is None
    none = evaluate_samples(generated=Generated(made.images[1::3], made.conditions[1::3]), real=real, **common)
    assert {"FA", "forget_probability", "forget_entropy"} < set(none.missing)
    assert none.samples["forgotten"] == 0


def test_bad_input_is_refused(network):
    real = network.look(Real(images(60), torch.arange(60) % 3))
    made = Generated(images(30, seed=1), torch.arange(30) % 3)
    common = {"generated": made, "real": real, "judge": network, "features": network}
    with pytest.raises(DataError, match="class 3 is none of the 3 classes"):
        evaluate_samples(forgotten=[3], classes=CLASSES, **common)
    with pytest.raises(DataError, match="class 2 is none of the 2 classes"):
        evaluate_samples(forgotten=[0], classes=CLASSES[:2], **common)
    with pytest.raises(DataError, match="the judge small-cnn knows 3 classes, the data 4"):
        evaluate_samples(forgotten=[0], classes=(*CLASSES, "three"), **common)
    other = Features("other", network.network, network.view)
    with pytest.raises(DataError, match="seen by small-cnn, and the samples by other"):
        evaluate_samples(forgotten=[0], classes=CLASSES, **{**common, "features": other})


def test_halves_of_the_same_data_are_close_and_the_same_again(network):
    labels = torch.arange(300) % 3
    real = network.look(Real(images(300), labels))
    found = halves(real=real, forgotten=[0])
    assert found == halves(real=real, forgotten=[0])
    assert found["FD"] != halves(real=real, forgotten=[0], seed=1)["FD"]
    assert (found["samples"], found["missing"]) == (200, {})
    bright = network.look(Generated(images(300, seed=1) // 2 + 128, labels))
    far = frechet_distance(real.pooled, bright.pooled)
    assert 0 < found["FD"] < far / 10
    few = halves(real=real.where(torch.arange(12)))
    assert few["FD"] is None
    assert few["missing"]["FD"].startswith("there are 6 real images in a half, and more than 8 are needed")
