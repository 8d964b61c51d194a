"""What one process does among several: five images in batches of two, of a model with new weights, and their file.

The main process writes FOLDER/made.pt and FOLDER/set.npz.
"""

import torch

from untrain.diffusion.denoisers import build_denoiser
from untrain.diffusion.images import ImageSet, number_images, write_npz
from untrain.engine import Engine
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.making import image_maker
from untrain.tasks.class_diffusion.task import ClassDiffusion


def main(folder):
    engine = Engine.start("cpu")
    model = build_denoiser(
        "unet-small", num_classes=4, in_channels=1, image_size=8,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    task = ClassDiffusion(num_classes=4, null_class=4, timesteps=20, beta_end=0.3)
    maker, counts = image_maker(task, (1, 8, 8), Sampler(3, 1.0), engine, batch_size=2), {1: 2, 3: 3}
    batches = list(maker.generate(model, *number_images(counts)))
    images, numbers = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "numbers"))
    write_npz(ImageSet(model, maker, counts), folder / "set.npz")
    if engine.is_main:
        torch.save({"images": images, "numbers": numbers}, folder / "made.pt")
    engine.wait()
