"""Counts of parts of bodies: by hand for a detector that is made up; by NudeNet for a photograph of a face."""

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from untrain.data.decoding import decode
from untrain.engine import Engine
from untrain.errors import DataError, ModelError, SettingError
from untrain.tasks.text_to_image.nudity import EXPOSED, INTIMATE, Nudity, nudenet

BREAST, BELLY, FACE = "FEMALE_BREAST_EXPOSED", "BELLY_EXPOSED", "FACE_FEMALE"


def told(label, score):
    return {"label": label, "score": score, "box": [1, 2, 3, 4]}


def reads(pixels):
    """Sees a breast as sure as the first pixel is red, and a belly as sure as it is green."""
    red, green, _ = pixels[0, 0]
    return [told(BREAST, float(red) / 100), told(BELLY, float(green) / 100)]


def painted(*firsts):
    """Images of one colour each."""
    return torch.tensor(firsts, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 6).contiguous()


def detector(**settings):
    return Nudity(reads, "eye", "hash", **settings)


class TestLooking:
    def test_an_intimate_part_counts_from_the_threshold_on(self):
        images = painted((60, 0, 0), (59, 0, 0), (0, 100, 0))
        found = detector().look(images, [None] * 3)
        assert [sighting.seen for sighting in found] == [True, False, False]
        assert [sighting.top5 for sighting in found] == [None] * 3
        assert [sighting.seen for sighting in detector(threshold=0.25).look(images, [None] * 3)] == [True, True, False]

    def test_everything_that_was_told_is_kept(self):
        (sighting,) = detector().look(painted((26, 91, 0)), [None])
        assert sighting.detections == (told(BREAST, 0.26), told(BELLY, 0.91))

    def test_images_by_part(self):
        eye = detector()
        found = eye.look(painted((90, 70, 0), (10, 70, 0), (60, 59, 0)), [None] * 3)
        assert eye.images_by_part(found) == {part: 2 * (part in (BREAST, BELLY)) for part in EXPOSED}
        twice = Nudity(lambda _: [told(BREAST, 0.9), told(BREAST, 0.8)], "eye", "hash")
        assert twice.images_by_part(twice.look(painted((0, 0, 0)), [None]))[BREAST] == 1, "images, not detections"

    def test_gray_images_and_none(self):
        assert detector().look(painted((80, 0, 0))[:, :1], [None])[0].seen
        assert detector().look(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), []) == []

    def test_what_is_wanted_changes_nothing(self):
        detector().check(["a circle", None])
        assert detector().look(painted((80, 0, 0)), ["a circle"])[0].seen

    def test_what_cannot_be_looked_at(self):
        with pytest.raises(DataError, match=r"uint8 \[N, 1 or 3, H, W\], not torch.float32 \[1, 3, 4, 4\]"):
            detector().look(torch.zeros(1, 3, 4, 4), [None])
        with pytest.raises(DataError, match="2 images and 1 wanted labels"):
            detector().look(painted((0, 0, 0), (0, 0, 0)), [None])
        for threshold in (-0.1, 1.1):
            with pytest.raises(SettingError, match=r"threshold must be in \[0, 1\]"):
                detector(threshold=threshold)

    def test_intimate_parts_are_exposed_ones(self):
        assert set(INTIMATE) < set(EXPOSED) and BELLY not in INTIMATE


class TestNudeNet:
    def test_a_missing_detector_is_an_error(self, monkeypatch):
        original = builtins.__import__

        def without(name, *more):
            if name.startswith("nudenet"):
                raise ImportError("No module named 'nudenet'")
            return original(name, *more)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(SettingError, match=r"pip install 'untrain\[nudity\]'"):
            nudenet()

    def test_another_version_is_an_error(self, monkeypatch):
        from nudenet import nudenet as package

        monkeypatch.setattr(package, "__labels", ["EXPOSED_BELLY"])
        with pytest.raises(ModelError, match="unknown version"):
            nudenet()

    def test_it_finds_the_face_of_a_photograph(self):
        """The astronaut of scikit-image, whose face lies around (225, 110) of 512 × 512 pixels; nothing is exposed."""
        from skimage.data import astronaut

        eye = nudenet(engine=Engine(torch.device("cpu")))
        (sighting,) = eye.look(torch.from_numpy(astronaut()).permute(2, 0, 1)[None], [None])
        (face,) = (each for each in sighting.detections if each["label"] == FACE and each["score"] >= 0.6)
        left, top, width, height = face["box"]
        assert left < 225 < left + width and top < 110 < top + height
        assert not sighting.seen and set(eye.images_by_part([sighting]).values()) == {0}
        assert (eye.name, eye.kind, eye.threshold, len(eye.hash)) == ("NudeNet", "nudity", 0.6, 64)

    def test_it_is_what_nudenet_says_of_the_file(self, tmp_path):
        """So no axis is turned on the way. Of a file NudeNet 3.4 swaps red and blue, which is undone beforehand."""
        from nudenet import NudeDetector
        from skimage.data import astronaut

        cut = np.ascontiguousarray(astronaut()[:, :300])
        Image.fromarray(cut[..., ::-1]).save(tmp_path / "astronaut.png")
        own = NudeDetector().detect(str(tmp_path / "astronaut.png"))
        (sighting,) = nudenet().look(torch.from_numpy(cut).permute(2, 0, 1)[None], [None])
        assert own and [dict(each) for each in sighting.detections] == [
            {"label": each["class"], "score": each["score"], "box": each["box"]} for each in own
        ]

    @pytest.mark.parametrize("swaps", ["an even number of times, as 3.4 does", "an odd number of times"])
    def test_red_arrives_as_red_however_often_the_package_swaps(self, swaps, monkeypatch):
        from nudenet import nudenet as package

        original = package._read_image
        if "odd" in swaps:
            monkeypatch.setattr(package, "_read_image", lambda image, size: original(image[..., ::-1].copy(), size))
        eye = nudenet()
        fed = listen(eye)
        for place, colour in enumerate(250 * np.eye(3, dtype=int)):
            eye.look(painted(colour.tolist()).repeat(1, 1, 3, 2), [None])
            arrived = next(iter(fed[-1].values()))[0].mean((1, 2))
            assert np.allclose(arrived, np.eye(3)[place] * 250 / 255, atol=0.01)

    def test_colours_that_arrive_otherwise_are_an_error(self, monkeypatch):
        from nudenet import nudenet as package

        original = package._read_image
        monkeypatch.setattr(
            package, "_read_image", lambda image, size=320: original(image[..., [1, 2, 0]].copy(), size)
        )
        with pytest.raises(ModelError, match="other colours"):
            nudenet()

    def test_a_photograph_is_seen_better_than_with_red_and_blue_swapped(self):
        import matplotlib

        path = Path(matplotlib.__file__).parent / "mpl-data/sample_data/grace_hopper.jpg"
        photo = decode(path.read_bytes(), "photo")[None]
        eye = nudenet(0.25)
        right, swapped = (
            max(each["score"] for each in eye.look(images, [None])[0].detections if each["label"] == FACE)
            for images in (photo, photo.flip(1))
        )
        assert right == pytest.approx(0.760, abs=0.02) and swapped == pytest.approx(0.615, abs=0.02)


def listen(eye):
    """What arrives at a detector's network from now on, call after call."""
    network, fed = eye.find.__closure__[0].cell_contents, []
    session = network.onnx_session

    class Listening:
        def run(self, names, inputs):
            fed.append(inputs)
            return session.run(names, inputs)

    network.onnx_session = Listening()
    return fed
