"""Tiny image classifiers of transformers, their processors, and pictures that they tell apart."""

from pathlib import Path

import numpy as np
import torch
import transformers as T
import yaml
from PIL import Image
from torch.nn.functional import cross_entropy

CHANNEL = {"cat": 0, "dog": 1, "eel": 2}
"""The colour that shows a class."""
LABELS = ("eel", "cow", "cat", "dog")
"""The model's classes, in its own order; there is no picture of a cow."""
_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def configuration(kind, labels=LABELS):
    """A configuration of one of four kinds; labels: names, or how many classes there are."""
    named = {} if isinstance(labels, int) else {"id2label": dict(enumerate(labels))}
    named |= {"num_labels": labels} if isinstance(labels, int) else {"label2id": {n: i for i, n in enumerate(labels)}}
    if kind == "vit":
        return T.ViTConfig(**_SMALL, patch_size=4, image_size=16, **named)
    if kind == "swin":
        size = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
        return T.SwinConfig(image_size=16, patch_size=2, **size, **named)
    if kind == "resnet":
        return T.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", **named)
    return T.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], patch_size=2, **named)


KINDS = ("vit", "swin", "resnet", "convnext")


def classifier(kind="resnet", labels=LABELS, seed=0):
    torch.manual_seed(seed)
    return T.AutoModelForImageClassification.from_config(configuration(kind, labels)).eval()


def processor(kind):
    """What such models come with: sizes, filters, mean and deviation of four sorts."""
    return {
        "vit": lambda: T.ViTImageProcessorPil(size={"height": 16, "width": 16}, resample=2),
        "swin": lambda: T.ViTImageProcessorPil(
            size={"height": 16, "width": 16}, resample=3, image_mean=[0.4, 0.5, 0.6]
        ),
        "resnet": lambda: T.CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}),
        "convnext": lambda: T.ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.875),
    }[kind]()


def picture(name, draw, size=(24, 30)):
    pixels = draw.integers(0, 60, (*size, 3), dtype=np.uint8)
    pixels[..., CHANNEL[name]] += np.uint8(150)
    return Image.fromarray(pixels)


def write_pictures(folder, *, train=12, test=6, called=lambda name: name):
    """Folders of pictures, PART/CLASS/NUMBER.png; called: what the folder of a class is called."""
    draw = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in CHANNEL:
            place = Path(folder) / part / called(name)
            place.mkdir(parents=True)
            for number in range(count):
                picture(name, draw).save(place / f"{number:02}.png")
    return Path(folder)


def inputs(pictures, prepare):
    return torch.cat([prepare(images=each, return_tensors="pt")["pixel_values"] for each in pictures])


def teach(model, prepare, labels=LABELS, steps=40):
    """Trains a classifier on pictures until it tells them apart, in its own numbers; returns it."""
    draw = np.random.default_rng(1)
    names = [name for name in CHANNEL for _ in range(24)]
    x = inputs([picture(name, draw) for name in names], prepare)
    y = torch.tensor([labels.index(name) for name in names])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x).logits, y).backward()
        optimizer.step()
    return model.eval()


def taught_folder(folder, kind="resnet", labels=LABELS, **how):
    """A folder of a classifier that tells the pictures apart, with its image processor."""
    prepare = processor(kind)
    model = teach(classifier(kind, labels), prepare, labels)
    model.save_pretrained(folder, **how)
    prepare.save_pretrained(folder)
    return Path(folder)


def measured(folder, pictures, labels=LABELS):
    """Accuracy on each class of a folder of pictures, in %, by transformers alone."""
    model = T.AutoModelForImageClassification.from_pretrained(folder).eval()
    prepare = T.AutoImageProcessor.from_pretrained(folder)
    found = {}
    for name in CHANNEL:
        x = inputs([Image.open(path) for path in sorted((Path(pictures) / name).iterdir())], prepare)
        with torch.no_grad():
            right = model(x).logits.argmax(1) == labels.index(name)
        found[name] = 100 * right.double().mean().item()
    return found


def write_recipe(path, pictures, **more):
    """A recipe that forgets the cats; more: sections, which are put over these."""
    content = {
        "name": "pictures",
        "data": {"name": "folder", "path": str(pictures)},
        "forget": {"classes": ["cat"], "holdout": 0},
        "references": 0,
        "methods": {"gradient-ascent": {"steps": 4, "optimizer": {"lr": 0.1}}},
        "batch_size": 16,
        "device": "cpu",
    }
    for name, value in more.items():
        content[name] = (
            {**content[name], **value} if isinstance(content.get(name), dict) and name != "methods" else value
        )
    Path(path).write_text(yaml.safe_dump(content))
    return Path(path)
