"""Loads a folder by transformers alone and counts how often it is right, on photos to keep and on test photos.

python examples/requests/check.py runs/request-2/sfron
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification


def accuracy(folder: Path, photos: list[Path]) -> float:
    """Percent of the photos whose likeliest class is the folder that they lie in."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    right = 0
    for first in range(0, len(photos), 100):
        batch = photos[first : first + 100]
        pixels = processor(images=[Image.open(path).convert("RGB") for path in batch], return_tensors="pt")
        with torch.no_grad():
            chosen = model(**pixels).logits.argmax(1).tolist()
        right += sum(model.config.id2label[i] == path.parent.name for i, path in zip(chosen, batch, strict=True))
    return 100 * right / len(photos)


def main() -> None:
    """Reads which photos are which from the run's split.json."""
    folder = Path(sys.argv[1])
    data = Path(sys.argv[2] if len(sys.argv) > 2 else "made/requests/photos")
    parts = json.loads((folder.parent / "split.json").read_text())["records"]["parts"]
    for measure, part in (("RA", "retain"), ("TA", "test")):
        photos = [data / name for name in parts[part]]
        print(f"{measure}: {accuracy(folder, photos):.2f} % of {len(photos)} photos")


if __name__ == "__main__":
    main()
