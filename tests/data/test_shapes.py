"""Captioned shapes: the picture shows what the caption says, and is decided by its seed alone."""

import math

import pytest
import torch

from untrain.data.shapes import (
    ATTRIBUTES,
    CAPTIONS,
    COLOURS,
    GREYS,
    PLACES,
    SHAPES,
    about,
    caption,
    captions_with,
    meaning,
    render,
    shapes,
)
from untrain.errors import SettingError, UnknownName

STILL = torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.5]])
"""No jitter, size 1, sharp edges, a background in the middle."""


def drawn(text: str) -> torch.Tensor:
    return render(torch.tensor([CAPTIONS.index(text)]), STILL)[0].double()


def covered(text: str) -> torch.Tensor:
    """How far each pixel is the shape's, from the channel that differs most from the background, [32, 32]."""
    grey = sum(GREYS) / 2
    colour = torch.tensor(COLOURS[meaning(text)["colour"]]).double()
    channel = int((colour - grey).abs().argmax())
    return (drawn(text)[channel] - grey) / (colour[channel] - grey)


class TestPictures:
    @pytest.mark.parametrize(
        ("shape", "area"),
        [
            ("circle", math.pi * 7.5**2),
            ("square", 13.6**2),
            ("triangle", 3 * math.sqrt(3) / 4 * 8.6**2),
            ("cross", 2 * 16.4 * 5.4 - 5.4**2),
        ],
    )
    def test_a_shape_has_its_area(self, shape, area):
        """Closed forms. Tolerance 3 %: an edge's coverage is only linear in its distance."""
        assert covered(caption(shape, "white", "in the middle")).sum() == pytest.approx(area, rel=0.03)

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_it_is_where_the_caption_says(self, shape, place):
        """The middle of what is coloured lies at the place: within half a pixel, as edges fall between pixels."""
        inside = covered(caption(shape, "blue", place)) > 0.5
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        right, down = PLACES[place]
        assert (columns[0] + columns[-1]).item() / 2 - 15.5 == pytest.approx(right, abs=0.51)
        assert (rows[0] + rows[-1]).item() / 2 - 15.5 == pytest.approx(down, abs=0.51)

    @pytest.mark.parametrize("colour", COLOURS)
    def test_its_centre_has_the_colour_and_its_corner_the_background(self, colour):
        image = drawn(caption("cross", colour, "in the middle"))
        assert image[:, 16, 16].tolist() == list(COLOURS[colour])
        assert image[:, 0, 0].tolist() == [45.0] * 3

    def test_a_circle_has_every_symmetry_and_a_triangle_one(self):
        circle, triangle = (drawn(caption(shape, "red", "in the middle")) for shape in ("circle", "triangle"))
        assert torch.equal(circle, circle.flip(1)) and torch.equal(circle, circle.transpose(1, 2))
        assert torch.equal(triangle, triangle.flip(2)) and not torch.equal(triangle, triangle.flip(1))

    def test_no_shape_touches_the_border_however_it_varies(self):
        extremes = torch.cartesian_prod(*[torch.tensor([0.0, 0.999])] * 4, torch.tensor([0.5]))
        for label in range(len(CAPTIONS)):
            images = render(torch.full((len(extremes),), label), extremes)
            border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
            assert border.unique().tolist() == [45], CAPTIONS[label]


class TestSource:
    def test_each_caption_has_as_many_images(self):
        source = shapes(count=250)
        assert source.labels.bincount(minlength=100).tolist() == [3] * 50 + [2] * 50
        assert source.classes == CAPTIONS and len(set(CAPTIONS)) == 100
        assert source.shape == (3, 32, 32) and source.input.dtype == torch.uint8

    def test_the_seed_decides_and_parts_share_nothing(self):
        assert shapes(count=100).fingerprint() == shapes(count=100).fingerprint()
        assert shapes(count=100).fingerprint() != shapes(count=100, seed=1).fingerprint()
        train, test = shapes(count=100), shapes("test", count=100)
        assert not (train.input == test.input).flatten(1).all(1).any()

    def test_images_of_a_caption_differ(self):
        twice = shapes(count=200).input
        assert not (twice[:100] == twice[100:]).flatten(1).all(1).any()

    @pytest.mark.parametrize("attribute", ATTRIBUTES)
    def test_labels_for_a_judge_are_what_the_caption_says(self, attribute):
        source = shapes(count=100)
        labelled = about(source, attribute)
        assert labelled.classes == ATTRIBUTES[attribute]
        for text, label in zip(source.classes, labelled.labels.tolist(), strict=True):
            assert labelled.classes[label] in text

    def test_captions_with_a_value(self):
        circles = captions_with(shape="circle")
        assert len(circles) == 25 and all("circle" in text for text in circles)
        assert captions_with(shape="cross", colour="red", place="at the top") == ("a red cross at the top",)

    def test_what_is_wrong_is_said(self):
        with pytest.raises(UnknownName, match=r"unknown shape 'circel'\. Did you mean 'circle'\?"):
            captions_with(shape="circel")
        with pytest.raises(UnknownName, match="unknown attribute 'size'"):
            about(shapes(count=1), "size")
        with pytest.raises(SettingError, match="at least 1 image, not 0"):
            shapes(count=0)
        with pytest.raises(UnknownName, match="'a red dog' is no caption"):
            meaning("a red dog")
