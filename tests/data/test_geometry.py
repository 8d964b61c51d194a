import numpy as np
import pytest
from PIL import Image

from untrain.data.decoding import decode
from untrain.data.geometry import Geometry, size_facts


def picture(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        (Geometry(), (50, 35)),
        (Geometry(20), (28, 20)),  # 20 · 50 / 35 = 28.57, rounded down
        (Geometry(20, (16, 18)), (16, 18)),
        (Geometry((12, 30)), (12, 30)),
        (Geometry(None, (60, 10)), (60, 10)),
    ],
)
def test_sizes(geometry, size):
    made = geometry.fit(picture(50, 35))
    assert (made.height, made.width) == size
    assert geometry.size in (None, size)


def test_the_centre_is_cut_out_and_padding_is_black():
    image = picture(7, 9)
    pixels = np.asarray(image)
    assert np.array_equal(np.asarray(Geometry(None, (3, 5)).fit(image)), pixels[2:5, 2:7])
    wide = np.asarray(Geometry(None, (9, 9)).fit(image))
    assert np.array_equal(wide[1:8], pixels) and not wide[0].any() and not wide[8].any()


@pytest.mark.parametrize("filtered", range(6))
def test_filters_are_those_of_pillow(filtered):
    image = picture(40, 30)
    expected = image.resize((12, 16), Image.Resampling(filtered))
    assert np.array_equal(np.asarray(Geometry((16, 12), None, filtered).fit(image)), np.asarray(expected))


def test_encoded_images_are_fitted_too(tmp_path):
    image = picture(40, 30)
    image.save(tmp_path / "a.png")
    geometry = Geometry(24, (20, 20), 3)
    found = decode((tmp_path / "a.png").read_bytes(), "a", geometry, False)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(geometry.fit(image)))
    assert size_facts(geometry) == [24, [20, 20], 3] and size_facts(8) == 8 and size_facts(None) is None
    assert "24" in str(geometry) and "20×20" in str(geometry) and "bicubic" in str(geometry)
