"""Small steps vanish in weights of bfloat16 (torchtune#2254, google-research/big_vision#41).

The same steps are taken on a pipeline in float32 and in bfloat16: as many weights must have changed, or it must be
said that they have not.
"""

import warnings

import diffusers
import torch
from _common import done, tmp

import untrain
from helpers.small_pipelines import stable_diffusion

diffusers.utils.logging.set_verbosity_error()
generator = torch.Generator().manual_seed(0)
images = [torch.randint(0, 255, (8, 3, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(2)]
slow = untrain.Optimizer("adam", lr=1e-5)  # the rate that fits a model of Stable Diffusion's size
found = {}
for dtype in (torch.float32, torch.bfloat16):
    pipeline = stable_diffusion(tmp()).to(torch.float32).to(dtype)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = untrain.unlearn(
                pipeline,
                task="text-to-image",
                forget=untrain.Concept("a red circle", images[0].clone(), anchor="a red square"),
                retain=untrain.Concept("a red square", images[1].clone()),
                device="cpu",
                steps=20,
                batch_size=4,
                optimizer=slow,
                forget_optimizer=slow,
            )
    except untrain.UntrainError as error:
        done(False, f"refused: {error}")
    before, after = (dict(each.unet.named_parameters()) for each in (pipeline, result.model))
    said = [str(each.message) for each in caught if "untrain" in each.filename and "float" in str(each.message)]
    found[dtype] = (sum(int((before[name] != after[name]).sum()) for name in before), result.notes, said)
wide, narrow = found[torch.float32], found[torch.bfloat16]
done(narrow[0] < 0.5 * wide[0] and not narrow[2], f"weights changed of 51684, notes, warnings: {found}")
