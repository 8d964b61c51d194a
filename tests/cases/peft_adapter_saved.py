"""A UNet with an adapter in it is saved under names that no loader knows (diffusers#6602, diffusers#7350)."""

import warnings

import diffusers
import torch
import transformers
from _common import done, tmp
from diffusers import StableDiffusionPipeline
from peft import LoraConfig

import untrain
from helpers.small_pipelines import stable_diffusion

diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()


def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "output_type": "np", "height": 16, "width": 16}
    return torch.from_numpy(pipeline("a red circle", generator=torch.Generator().manual_seed(0), **how).images)


images = [torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8) for _ in range(2)]
pipeline = stable_diffusion(tmp()).to(torch.float32)
pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        result = untrain.unlearn(
            pipeline,
            task="text-to-image",
            forget=untrain.Concept("a red circle", images[0], anchor="a red square"),
            retain=untrain.Concept("a red square", images[1]),
            steps=2,
            batch_size=2,
            device="cpu",
        )
    except untrain.UntrainError as error:
        done(False, f"refused: {error}")
said = [str(each.message) for each in caught if "untrain" in each.filename]
unlearned, folder = draw(result.model), tmp()
result.model.save_pretrained(folder / "whole")
again = draw(StableDiffusionPipeline.from_pretrained(folder / "whole", safety_checker=None))
apart = float((again - unlearned).abs().max())
done(not apart < 1e-4 and not said and not result.notes, f"saved and loaded, images differ by {apart}; said: {said}")
