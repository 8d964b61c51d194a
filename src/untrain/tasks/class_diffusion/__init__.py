"""Image generation conditioned on a class."""

from untrain.registry import Entry
from untrain.tasks.class_diffusion.sections import ClassDiffusionSections

ENTRY = Entry(
    "Class-conditional noise prediction of a DDPM or DiT.",
    ClassDiffusionSections,
    "untrain.tasks.class_diffusion.domain:ClassDiffusionDomain",
    listing={"generators": "untrain.diffusion.denoisers:DENOISERS"},
    sampler="untrain.tasks.class_diffusion.sample:sample_classes",
)
