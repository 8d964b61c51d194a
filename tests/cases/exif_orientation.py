"""A phone's photograph lies on its side in the file and has a tag that says so (diffusers#3465, datasets#6739).

Read from a folder of classes and as a concept's image, it must be what Pillow makes of it when it heeds the tag.
"""

import numpy as np
import torch
from _common import done, tmp
from PIL import Image, ImageOps

import untrain
from untrain.data import sources
from untrain.tasks.text_to_image.concepts import images_of

folder = tmp()
(folder / "a").mkdir()
(folder / "b").mkdir()
lying = np.zeros((16, 16, 3), np.uint8)
lying[:8, :8] = [255, 0, 0]
lying[8:, 12:] = [0, 0, 255]
bad = []
for orientation in (3, 6, 8):
    tags = Image.Exif()
    tags[0x0112] = orientation
    for name in "ab":
        Image.fromarray(lying).save(folder / name / "x.png", exif=tags)
    upright = ImageOps.exif_transpose(Image.open(folder / "a/x.png")).convert("RGB")
    want = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    read = {
        "folder": sources.load("folder", "train", path=folder, image_size=16),
        "concept": images_of(untrain.Concept("x", str(folder / "a")), 0, ("x",)),
    }
    for what, source in read.items():
        off = (source.batch(torch.tensor([0]))["input"][0].float() - want.float()).abs().max().item()
        if off:
            bad.append((what, orientation, off))
done(bad, f"pixels that differ from the upright image (source, orientation, largest difference): {bad}")
