"""Every mode of Pillow by every way in, against Pillow's own conversions and against arithmetic on arrays."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import untrain
from untrain.data.decoding import decode, to_tensor
from untrain.data.sources import load
from untrain.errors import DataError
from untrain.tasks.text_to_image.concepts import images_of

SIZE = (14, 10)


def noise(channels=0, seed=0, dtype=np.uint8):
    shape = (SIZE[1], SIZE[0], *((channels,) if channels else ()))
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def encoded(image, kind="PNG", **how):
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def array(pixels):
    """[C, H, W] → [H, W, C]."""
    return pixels.permute(1, 2, 0).numpy()


def reopened(data):
    """As Pillow reads it, of which nothing is decoded yet."""
    return Image.open(io.BytesIO(data))


def read_every_way(data, folder):
    """The pixels of an encoded image, by each way in."""
    (folder / "a").mkdir(exist_ok=True)
    path = folder / "a" / "x.png"
    path.write_bytes(data)
    loaded = reopened(data)
    loaded.load()

    def concept(images):
        return images_of(untrain.Concept("x", images), 0, ("x",))[0]["input"]

    return {
        "bytes": decode(data, "x"),
        "object": to_tensor(reopened(data), "x"),
        "loaded object": to_tensor(loaded, "x"),
        "folder": load("folder", "train", path=folder)[0]["input"],
        "concept of files": concept([path]),
        "concept of a folder": concept(str(folder / "a")),
        "concept of objects": concept([reopened(data)]),
    }


def rgba():
    """Half visible colours, with colours hidden where nothing is to be seen."""
    pixels = noise(4)
    pixels[:3, :, 3], pixels[3:6, :, 3] = 0, 255
    return pixels


def over_white(pixels):
    """In exact arithmetic, rounded."""
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:].astype(float) / 255
    return np.round(colour * alpha + 255 * (1 - alpha)).astype(int)


PLAIN = {
    "1": Image.fromarray(noise() > 128),
    "L": Image.fromarray(noise()),
    "P": Image.fromarray(noise(3)).quantize(16),
    "RGB": Image.fromarray(noise(3)),
    "CMYK": Image.fromarray(noise(4), "CMYK"),
    "YCbCr": Image.fromarray(noise(3), "YCbCr"),
}


@pytest.mark.parametrize("mode", PLAIN)
def test_opaque_modes_are_what_pillow_makes_of_them(mode, tmp_path):
    image = PLAIN[mode]
    data = encoded(image, "TIFF")
    expected = np.array(reopened(data).convert("RGB"))
    for way, pixels in read_every_way(data, tmp_path).items():
        assert pixels.dtype == torch.uint8 and np.array_equal(array(pixels), expected), way
    grey = np.array(reopened(data).convert("L"))
    assert np.array_equal(decode(data, "x", grayscale=True)[0].numpy(), grey)


def test_lightness_and_two_colours():
    data = encoded(Image.fromarray(noise(3), "LAB"), "TIFF")
    colours = reopened(data).convert("RGB")
    assert np.array_equal(array(decode(data, "x")), np.array(colours))
    assert np.array_equal(decode(data, "x", grayscale=True)[0].numpy(), np.array(colours.convert("L")))


def test_modes_that_no_file_has():
    hsv = Image.fromarray(noise(3), "HSV")
    assert np.array_equal(array(to_tensor(hsv, "x")), np.array(hsv.convert("RGB")))
    premultiplied = Image.fromarray(rgba()).convert("RGBa")
    assert torch.equal(to_tensor(premultiplied, "x"), to_tensor(premultiplied.convert("RGBA"), "x"))
    grey = Image.fromarray(rgba()).convert("LA").convert("La")
    assert torch.equal(to_tensor(grey, "x"), to_tensor(grey.convert("LA"), "x"))


def png(image, depth, colour, key=None, row=None):
    """A PNG written by hand: bits and kinds of colours that Pillow does not write."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", *SIZE, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + (row(line) if row else line.tobytes()) for line in image)
    keyed = b"" if key is None else chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in key))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + keyed
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def packed(bits):
    return lambda line: np.packbits(((line[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)).tobytes()


def transparent():
    """Name → file, and what must be seen, [H, W, 3]."""
    colours, grey = rgba(), noise(seed=1)
    whole, two = Image.fromarray(colours), noise(2, seed=2)
    two[:4, :, 1], two[4:7, :, 1] = 0, 255
    yield "RGBA", encoded(whole), over_white(colours)
    yield "WebP", encoded(whole, "WEBP", lossless=True, exact=True), over_white(colours)
    yield "TIFF", encoded(whole, "TIFF"), over_white(colours)
    seen = over_white(np.concatenate([np.repeat(two[..., :1], 3, 2), two[..., 1:]], 2))
    yield "LA", encoded(Image.fromarray(two)), seen
    deep = (colours.astype(np.uint16) << 8).astype(">u2")
    yield "RGBA of 16 bits", png(deep, 16, 6), over_white(colours)
    yield "LA of 16 bits", png((two.astype(np.uint16) << 8).astype(">u2"), 16, 4), seen
    palette = Image.fromarray(grey % 4)
    palette = palette.convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    alphas = np.array([0, 255, 128, 255], np.uint8)
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    index = np.array(palette)
    yield (
        "palette with alphas",
        encoded(palette, transparency=alphas.tobytes()),
        over_white(np.concatenate([table[index], alphas[index][..., None]], 2)),
    )
    one = np.where((index == 2)[..., None], 255, table[index])
    yield "palette with one colour", encoded(palette, transparency=2), one
    yield "GIF", encoded(palette, "GIF", transparency=2), one
    for bits in (1, 2, 4, 8):
        values = (grey.astype(int) % (1 << bits)).astype(np.uint8)
        key = min(1, (1 << bits) - 1) if bits == 1 else 3
        visible = np.where(values == key, 255, values.astype(int) * 255 // ((1 << bits) - 1))
        yield (
            f"grey of {bits} bits with one",
            png(values, bits, 0, [key], packed(bits)),
            visible[..., None].repeat(3, 2),
        )
    keyed = colours[..., :3].copy()
    keyed[2:5, 2:5] = [7, 8, 9]
    gone = np.where((keyed == [7, 8, 9]).all(-1, keepdims=True), 255, keyed)
    yield "RGB with one colour", encoded(Image.fromarray(keyed), transparency=(7, 8, 9)), gone
    sixteen = noise(seed=3, dtype=np.uint16)
    sixteen[0, 0], sixteen[0, 1] = 0x1234, 0x1235
    visible = np.where(sixteen == 0x1234, 255, sixteen >> 8)
    yield "grey of 16 bits with one", png(sixteen.astype(">u2"), 16, 0, [0x1234]), visible[..., None].repeat(3, 2)


@pytest.mark.parametrize(("data", "expected"), [pytest.param(d, e, id=name) for name, d, e in transparent()])
def test_what_is_transparent_is_white(data, expected, tmp_path):
    for way, pixels in read_every_way(data, tmp_path).items():
        if way == "loaded object" and data[24] in (2, 4) and data[:4] == b"\x89PNG":
            continue  # Pillow has forgotten by then of how many bits the transparent grey was
        off = np.abs(array(pixels).astype(int) - expected)
        assert off.max() <= 1, way  # of one rounding where something is half transparent
        assert not off[expected == 255].any(), way
    grey = decode(data, "x", grayscale=True)
    assert torch.equal(grey, to_tensor(Image.fromarray(array(decode(data, "x"))), "x", grayscale=True))


def test_a_palette_of_colours_with_alpha():
    image = Image.new("P", SIZE)
    image.putpalette([0, 0, 0, 0, 10, 20, 30, 255], "RGBA")
    image.putpixel((1, 0), 1)
    pixels = array(to_tensor(image, "x"))
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[0, 1].tolist() == [10, 20, 30]
    with_alpha = Image.merge("PA", (Image.new("P", SIZE), Image.new("L", SIZE, 0)))
    assert int(to_tensor(with_alpha, "x").min()) == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled(kind, tmp_path):
    deep = noise(seed=4, dtype=np.uint16)
    deep[0, :3] = [0, 255, 65535]
    data = encoded(Image.fromarray(deep), kind)
    for way, pixels in read_every_way(data, tmp_path).items():
        assert np.array_equal(pixels[0].numpy(), deep >> 8), way
        assert torch.equal(pixels[0], pixels[2]), way
    assert np.abs(pixels[0].numpy() - deep / 257).max() <= 1


def test_grey_of_16_bits_is_as_colours_of_16_bits_are():
    deep = noise(seed=4, dtype=np.uint16)
    grey, colours = png(deep.astype(">u2"), 16, 0), png(deep[..., None].repeat(3, 2).astype(">u2"), 16, 2)
    assert torch.equal(decode(grey, "x"), decode(colours, "x"))
    assert torch.equal(to_tensor(Image.fromarray(deep), "x"), decode(grey, "x"))
    big = Image.frombytes("I;16B", SIZE, deep.astype(">u2").tobytes())
    assert torch.equal(to_tensor(big, "x"), decode(grey, "x"))


def test_grey_of_12_bits():
    """A TIFF of 2 × 1 pixels by hand: 0xABC and 0x123 in three bytes."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<I", 12) + b"\xab\xc1\x23\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    loaded = reopened(data)
    loaded.load()
    for pixels in (decode(data, "x"), to_tensor(loaded, "x")):
        assert pixels[0].tolist() == [[0xAB, 0x12]]


def test_a_tiff_in_which_zero_is_white():
    shallow, deep = noise(), noise(seed=4, dtype=np.uint16)
    for pixels, expected in ((shallow, 255 - shallow), (deep, 255 - (deep >> 8))):
        image = Image.fromarray(pixels)
        data = encoded(image, "TIFF", tiffinfo={262: 0})
        if pixels is shallow:  # Pillow writes these the other way round, too
            expected = np.array(reopened(data))
        assert np.array_equal(decode(data, "x")[0].numpy(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_photographs_are_upright(kind, orientation, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encoded(Image.fromarray(noise(3)), kind, exif=tags)
    expected = np.array(ImageOps.exif_transpose(reopened(data)).convert("RGB"))
    assert expected.shape[:2] == (SIZE if orientation > 4 else SIZE[::-1])
    for way, pixels in read_every_way(data, tmp_path).items():
        assert np.array_equal(array(pixels), expected), way
    square = decode(data, "x", 8)
    whole = ImageOps.exif_transpose(reopened(data)).convert("RGB")
    assert torch.equal(square, to_tensor(whole, "x", 8))


def test_an_upright_object_is_not_turned_again_and_stays_as_it_is():
    tags = Image.Exif()
    tags[0x0112] = 6
    lying = reopened(encoded(Image.fromarray(noise(3)), exif=tags))
    upright = ImageOps.exif_transpose(lying)
    assert np.array_equal(array(to_tensor(upright, "x")), np.array(upright))
    to_tensor(lying, "x")
    assert lying.size == SIZE and lying.getexif()[0x0112] == 6


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "JPEG"])
def test_an_object_that_was_read_before_its_file_was_closed(kind, tmp_path):
    Image.fromarray(noise(3)).save(tmp_path / "x", kind)
    with Image.open(tmp_path / "x") as image:
        image.load()
    assert np.array_equal(array(to_tensor(image, "x")), array(decode((tmp_path / "x").read_bytes(), "x")))


def test_the_orientation_of_transparent_and_deep_images():
    tags = Image.Exif()
    tags[0x0112] = 8
    for image in (Image.fromarray(rgba()), Image.fromarray(noise(seed=4, dtype=np.uint16))):
        turned = decode(encoded(image, exif=tags), "x")
        assert torch.equal(turned, decode(encoded(image), "x").rot90(1, (1, 2)))


def test_tags_that_cannot_be_read_are_named(tmp_path):
    data = encoded(Image.fromarray(noise(3)), "WEBP", lossless=True, exif=b"Exif\0\0no tags at all")
    with pytest.warns(UserWarning, match=r"x has tags \(EXIF\) that cannot be read"):
        assert np.array_equal(array(decode(data, "x")), noise(3))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_frames_is_read_and_that_is_said_once(kind, tmp_path):
    frames = [Image.fromarray(noise(3, seed)) for seed in range(3)]
    how = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)
    expected = np.array(reopened(data).convert("RGB"))
    (tmp_path / "a").mkdir()
    for i in range(3):
        (tmp_path / "a" / f"{i}.png").write_bytes(data)
    with pytest.warns(UserWarning, match=r"0\.png has several frames") as said:
        source = load("folder", "train", path=tmp_path)
    assert len(said) == 1
    for i in range(3):
        assert np.array_equal(array(source[i]["input"]), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        later = reopened(data)
        later.seek(1)  # somebody chose it
        assert np.array_equal(array(to_tensor(later, "x")), np.array(later.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(noise().astype(np.float32)), "32 bits"),
        (Image.fromarray(noise().astype(np.int32)), "32 bits"),
    ],
    ids=["F", "I"],
)
def test_what_cannot_be_known_is_refused(image, reason, tmp_path):
    with pytest.raises(DataError, match=reason):
        to_tensor(image, "x")
    with pytest.raises(DataError, match=f"x .*{reason}"):
        decode(encoded(image, "TIFF"), "x")
    with pytest.raises(DataError, match=f"the images of 'c', number 0.*{reason}"):
        images_of(untrain.Concept("c", [image]), 0, ("c",))


def test_a_transparent_colour_of_16_bits_is_refused():
    deep = noise(3, dtype=np.uint16).astype(">u2")
    for key in ([1, 2, 3], [60000, 2, 3]):
        with pytest.raises(DataError, match="x has colours of 16 bits"):
            decode(png(deep, 16, 2, key), "x")


def test_a_damaged_object_is_named():
    data = encoded(Image.fromarray(noise(3)))
    with pytest.raises(DataError, match="photo cannot be decoded"):
        to_tensor(reopened(data[:-300]), "photo")
