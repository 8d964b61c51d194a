"""A text-to-image recipe that takes seconds, the tiny pipeline that it is about, and judges that are known by heart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from helpers.small_pipelines import stable_diffusion
from untrain.models.checkpoints import save
from untrain.models.classifiers import build

LABELS = ("circle", "square", "cross")

RECIPE = """\
# A circle forgotten by a pipeline with random weights
name: tiny-text
task: text-to-image
model: {{checkpoint: {0}/pipe}}
concepts:
  forget: [{{prompt: a red circle, anchor: a red square, label: circle}}]
  retain: [{{prompt: a red square, label: square}}, {{prompt: a blue cross, label: cross}}]
  images: {{count: 3, sampler: {{steps: 2, guidance_scale: 2.0}}, batch_size: 2}}
parts: xattn
batch_size: 2
generation: {{sampler: {{steps: 2, guidance_scale: 2.0}}, samples: 2, columns: 2, batch_size: 4}}
judge:
  checkpoint: {0}/judge.safetensors
  classes: [circle, square, cross]
  image_size: 16
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
  options: {{width: 4}}
methods:
  sfron: {{steps: 2}}
device: cpu
"""


def save_judge(path: Path, labels: Sequence[str] = LABELS, *, always: str | None = None) -> Any:
    """A small-cnn with weights by chance, or one that always says the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = build("small-cnn", num_classes=len(labels), in_channels=3, image_size=16, width=4)
    if always is not None:
        last = [layer for layer in judge.modules() if isinstance(layer, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(torch.tensor([float(label == always) for label in labels]))
    save(judge.state_dict(), path, {})
    return judge


CAPTIONED = """\
# Circles forgotten by a pipeline with random weights, on captioned images
name: tiny-shapes
task: text-to-image
data: {{name: captions, path: {0}/images}}
model: {{checkpoint: {0}/pipe}}
concepts:
  forget: [{{containing: circle, instead: square}}]
train: {{steps: 2, optimizer: {{name: adam, lr: 0.002, momentum: 0, weight_decay: 0}}}}
parts: xattn
batch_size: 8
generation: {{sampler: {{steps: 2, guidance_scale: 2.0}}, samples: 1, columns: 1}}
judge: {{attributes: [shape, colour, place], options: {{width: 4}}, train: {{steps: 2}}}}
methods:
  sfron: {{steps: 1, fisher_samples: 8}}
device: cpu
"""


def save_captioned_recipe(folder: Path) -> Path:
    """Writes a recipe on captioned shapes, its images and its pipeline; returns the recipe's path."""
    from helpers.shapes import save_untrained_pipeline, write_captioned_images

    write_captioned_images(folder / "images", 200, 100)
    save_untrained_pipeline(folder / "pipe")
    path = folder / "shapes.yaml"
    path.write_text(CAPTIONED.format(folder))
    return path


def without_judge(recipe: str) -> str:
    """The text recipe without its section judge."""
    start, end = recipe.index("judge:"), recipe.index("methods:")
    return recipe[:start] + recipe[end:]


def save_text_recipe(folder: Path) -> Path:
    """Writes the recipe, its pipeline and its judge, which always says “circle”; returns the recipe's path."""
    pipeline = stable_diffusion(folder).to(torch.float32)
    pipeline.save_pretrained(folder / "pipe")
    save_judge(folder / "judge.safetensors", always="circle")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(folder))
    return path
