"""What one process does among several: five images in batches of two, of a model with new weights, and their file.

The main process writes FOLDER/made.pt and FOLDER/set.npz.
"""

import torch

from untrain.diffusion.denoisers import build_denoiser
from untrain.diffusion.images import ImageSet, generate_images, write_npz
from untrain.engine import Engine
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion


def main(folder):
    engine = Engine.start("cpu")
    model = build_denoiser(
        "unet-small", num_classes=4, in_channels=1, image_size=8,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    task = ClassDiffusion(num_classes=4, null_class=4, timesteps=20, beta_end=0.3)
    counts, shape, sampler = {1: 2, 3: 3}, (1, 8, 8), Sampler(3, 1.0)
    batches = list(generate_images(model, task, counts, shape, sampler=sampler, seed=0, batch_size=2, engine=engine))
    images, numbers = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "numbers"))
    write_npz(ImageSet(model, task, shape, counts, sampler), folder / "set.npz", engine=engine, batch_size=2)
    if engine.is_main:
        torch.save({"images": images, "numbers": numbers}, folder / "made.pt")
    engine.wait()
