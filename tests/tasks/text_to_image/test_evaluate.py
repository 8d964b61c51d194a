"""Measures of concepts: shares against counts by hand, the distance against its closed form, and every reason."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from untrain.diffusion.features import Features, classifier_features
from untrain.diffusion.quality import frechet_distance
from untrain.errors import DataError, FolderError, SettingError, UnknownName
from untrain.tasks.text_to_image.detectors import Classifier
from untrain.tasks.text_to_image.evaluate import (
    Judge,
    PromptImages,
    evaluate_concept_images,
    features_of,
    write_detections,
)
from untrain.tasks.text_to_image.nudity import Nudity

SHAPES = ("circle", "square", "triangle", "cross", "star", "moon")
COLOURS = ("red", "green")


class Reader(nn.Module):
    """Its logits are some of the image's first pixels."""

    def __init__(self, first, classes):
        super().__init__()
        self.first, self.linear = first, nn.Linear(classes, classes, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x):
        return self.linear(x.flatten(1)[:, self.first : self.first + self.linear.in_features])


def reader(name, labels, first=0):
    return Classifier(classifier_features(Reader(first, len(labels)), lambda x: x.float(), name), labels)


def drawn(*what):
    """An image for each (shape, colour), on which the readers see these; the shapes before it come next."""
    images = torch.zeros(len(what), 3, 4, 4, dtype=torch.uint8)
    for image, (shape, colour) in zip(images, what):
        pixels = image[0].view(-1)
        pixels[: len(SHAPES)] = torch.arange(len(SHAPES), 0, -1)
        pixels[SHAPES.index(shape)] = 100
        pixels[len(SHAPES) + COLOURS.index(colour)] = 50
    return images


def made(prompts, what, wanted=None):
    wanted = [text.split()[-1] for text in prompts] if wanted is None else wanted
    return PromptImages(drawn(*what), prompts, wanted, list(range(len(prompts))), [7] * len(prompts))


def empty():
    return PromptImages(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), [], [], [], [])


SHAPE, COLOUR = reader("shape", SHAPES), reader("colour", COLOURS, len(SHAPES))
GONE = made(["a red circle"] * 4, [("circle", "red"), ("square", "red"), ("star", "red"), ("moon", "red")])
KEPT_TEXTS = ["a red square", "a green square", "a red cross", "a green cross", "a green cross"]
KEPT = made(
    KEPT_TEXTS,
    [("square", "red"), ("square", "red"), ("cross", "green"), ("circle", "green"), ("cross", "green")],
)
COLOURS_ASKED = Judge(COLOUR, [text.split()[1] for text in KEPT_TEXTS])


def evaluated(forgotten=GONE, retained=KEPT, detector=SHAPE, **more):
    return evaluate_concept_images(forgotten=forgotten, retained=retained, detector=detector, **more)


class TestClassifier:
    def test_shares_are_counts(self):
        found = evaluated(judges=[COLOURS_ASKED])
        assert found.FA == 25.0
        assert found.FA5 == 100.0, "the circle comes second wherever it is not first"
        assert found.RA == 80.0
        assert found.by_class == {
            "recognised": {
                "circle": 25.0,
                "square": 100.0,
                "cross": pytest.approx(200 / 3),
                "red": 50.0,
                "green": pytest.approx(200 / 3),
            }
        }
        assert found.RA_worst == 50.0, "of a colour, though shapes are better"
        assert found.samples == {"forgotten": 4, "retained": 5}
        assert found.by_part is None and "by_part" not in found.to_dict()

    def test_without_other_judges_the_worst_is_a_shape(self):
        assert evaluated().RA_worst == pytest.approx(200 / 3)

    def test_a_label_on_both_sides_is_that_of_the_retained_prompts(self):
        kept = made(["a green circle", "a red square"], [("circle", "green"), ("circle", "red")])
        found = evaluated(retained=kept)
        assert (found.FA, found.RA, found.RA_worst) == (25.0, 50.0, 0.0)
        assert found.by_class["recognised"] == {"circle": 100.0, "square": 0.0}

    def test_a_label_of_two_judges_has_the_second_ones_name(self):
        again = Judge(reader("other shape", SHAPES), KEPT.wanted)
        labels = evaluated(judges=[again]).by_class["recognised"]
        assert list(labels) == ["circle", "square", "cross", "square (other shape)", "cross (other shape)"]

    def test_images_without_a_label_do_not_count(self):
        kept = made(KEPT_TEXTS, [("square", "red")] * 5, ["square", None, None, None, "cross"])
        assert evaluated(retained=kept).RA == 50.0

    def test_five_labels_have_no_five_first(self):
        found = evaluated(detector=reader("few", SHAPES[:5]))
        assert found.FA5 is None and "no more than five labels" in found.missing["FA5"]

    def test_an_unknown_label_is_an_error(self):
        with pytest.raises(UnknownName, match="called 'circel'. Did you mean 'circle'"):
            evaluated(forgotten=made(["a circel"], [("circle", "red")]))

    def test_nothing_is_left_without_a_reason(self):
        for found in (evaluated(), evaluated(empty(), empty(), setting="generation.count")):
            plain = found.to_dict()
            measures = ("FA", "FA5", "RA", "RA_worst", "NR", "CLIP", "FD")
            assert {name for name in measures if plain[name] is None} == set(plain["missing"])
        assert found.missing["FA"] == "there is no image of a forgotten prompt with a label: raise generation.count"
        assert "FID" not in plain


def breasts(pixels):
    """Sees a breast where there is a circle."""
    shape = SHAPES[int(pixels.reshape(-1, 3)[: len(SHAPES), 0].argmax())]
    return [{"label": "FEMALE_BREAST_EXPOSED", "score": 0.9, "box": [0, 0, 1, 1]}] if shape == "circle" else []


EYE = Nudity(breasts, "NudeNet", "hash")


def unasked(images):
    return PromptImages(images.images, images.prompts, [None] * len(images.prompts), images.numbers, images.seeds)


class TestNudity:
    def test_shares_and_parts(self):
        found = evaluated(unasked(GONE), unasked(KEPT), EYE)
        assert (found.FA, found.NR, found.FA5, found.RA, found.RA_worst) == (25.0, 20.0, None, None, None)
        assert {part: count for part, count in found.by_part.items() if count} == {"FEMALE_BREAST_EXPOSED": 1}
        assert {"FA5", "RA", "RA_worst"} <= set(found.missing) and found.by_class == {"recognised": {}}
        assert found.to_dict()["by_part"] == found.by_part

    def test_a_classifier_beside_it_says_what_is_kept(self):
        found = evaluated(unasked(GONE), unasked(KEPT), EYE, judges=[COLOURS_ASKED])
        assert (found.RA, found.RA_worst) == (None, 50.0) and "RA_worst" not in found.missing
        assert list(found.by_class["recognised"]) == ["red", "green"]

    def test_no_images_are_no_zero(self):
        found = evaluated(empty(), empty(), EYE)
        assert found.FA is None and found.NR is None and {"FA", "NR"} <= set(found.missing)


class Pixels(nn.Module):
    """Features are two pixels."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(x.flatten(1)[:, :2])


FEATURES = classifier_features(Pixels(), lambda x: x.float(), "pixels")


def spread(count, seed, shift=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, 3, 4, 4), generator=g, dtype=torch.uint8) + shift
    return PromptImages(images, ["a cross"] * count, ["cross"] * count, list(range(count)), [0] * count)


class TestDistance:
    def test_it_is_the_distance_of_the_two_sets_of_features(self):
        ours, theirs = spread(50, 1), spread(50, 2)
        reference = features_of(theirs.images, FEATURES)
        found = evaluated(retained=ours, features=FEATURES, reference=reference)
        own = ours.images.flatten(1)[:, :2].float()
        assert torch.equal(features_of(ours.images, FEATURES), own)
        assert found.FD == frechet_distance(own, reference) and found.FD > 0 and "FD" not in found.missing

    def test_a_shift_alone_is_its_square(self):
        """‖μ₁ − μ₂‖² where the covariances are one."""
        ours = spread(50, 1)
        reference = features_of(spread(50, 1, shift=30).images, FEATURES)
        assert evaluated(retained=ours, features=FEATURES, reference=reference).FD == pytest.approx(1800, rel=1e-6)

    def test_it_is_called_fid_with_inception_alone(self):
        inception = Features("Inception-v3", FEATURES.network, FEATURES.view, inception=True)
        reference = features_of(spread(50, 2).images, inception)
        plain = evaluated(retained=spread(50, 1), features=inception, reference=reference).to_dict()
        assert plain["FID"] > 0 and "FD" not in plain

    def test_reasons(self):
        few = spread(2, 1)
        found = evaluated(retained=few, features=FEATURES, reference=features_of(few.images, FEATURES), setting="n")
        assert found.missing["FD"] == (
            "there are 2 images of retained prompts, and more than 2 are needed (pixels has as many features): raise n"
        )
        assert "original's own images" in evaluated(features=FEATURES).missing["FD"]
        assert "no network was chosen" in evaluated().missing["FD"]

    def test_what_does_not_fit_together(self):
        with pytest.raises(DataError, match="5 images of retained prompts and 4 of the original"):
            evaluated(features=FEATURES, reference=torch.zeros(4, 2))
        with pytest.raises(SettingError, match="give features="):
            evaluated(reference=torch.zeros(5, 2))


def test_the_clip_score_is_the_mean_over_retained_images():
    seen = []

    def score(images, texts):
        seen.append((images, texts))
        return torch.tensor([10.0, 20.0, 30.0, 0.0, 40.0], dtype=torch.float64)

    assert evaluated(clip=SimpleNamespace(score=score)).CLIP == 20.0
    assert seen == [(KEPT.images, KEPT_TEXTS)]
    assert evaluated(retained=empty(), clip=SimpleNamespace(score=score)).missing["CLIP"]


class TestFile:
    def test_every_image_has_its_line(self, tmp_path):
        found = evaluated()
        write_detections(tmp_path / "sfron.json", found, GONE, KEPT)
        rows = json.loads((tmp_path / "sfron.json").read_text())
        assert [row["set"] for row in rows] == ["forget"] * 4 + ["retain"] * 5
        first = rows[0]
        assert first == {
            "prompt": "a red circle",
            "number": 0,
            "seed": 7,
            "set": "forget",
            "seen": True,
            "top5": True,
            "detections": list(found.forgotten_sightings[0].detections),
        }
        assert first["detections"][0] == {"label": "circle", "score": pytest.approx(1.0)}
        assert 100 * sum(row["seen"] for row in rows[4:]) / 5 == found.RA

    def test_nudenets_boxes_and_no_top5(self, tmp_path):
        found = evaluated(unasked(GONE), unasked(KEPT), EYE)
        write_detections(tmp_path / "a.json", found, GONE, KEPT)
        (first, *_) = json.loads((tmp_path / "a.json").read_text())
        assert first["detections"] == [{"label": "FEMALE_BREAST_EXPOSED", "score": 0.9, "box": [0, 0, 1, 1]}]
        assert "top5" not in first

    def test_images_of_another_evaluation(self, tmp_path):
        with pytest.raises(DataError, match="5 images and 4 sightings"):
            write_detections(tmp_path / "a.json", evaluated(), KEPT, KEPT)
        (tmp_path / "file").write_text("")
        with pytest.raises(FolderError):
            write_detections(tmp_path / "file" / "a.json", evaluated(), GONE, KEPT)


def test_every_image_needs_all_that_is_said_of_it():
    with pytest.raises(DataError, match="2 images and 1 seeds"):
        PromptImages(drawn(("circle", "red"), ("star", "red")), ["a", "b"], [None, None], [0, 1], [0])
    with pytest.raises(DataError, match="uint8"):
        PromptImages(torch.zeros(1, 3, 4, 4), ["a"], [None], [0], [0])
