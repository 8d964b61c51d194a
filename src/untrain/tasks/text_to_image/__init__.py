"""Image generation conditioned on text."""

from untrain.registry import Entry
from untrain.tasks.text_to_image.sections import TextToImageSections

ENTRY = Entry(
    "Text-conditional prediction of noise or velocity, in latent space.",
    TextToImageSections,
    "untrain.tasks.text_to_image.domain:TextToImageDomain",
    references=0,
    listing={"pipelines": "untrain.diffusion.architectures:PIPELINES"},
    sampler="untrain.tasks.text_to_image.sample:sample_table",
)
