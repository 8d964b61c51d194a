"""A single file whose text encoder has no 'text_model.' in its names (diffusers#8228)."""

import diffusers
import torch
import transformers
from _common import done, tmp
from safetensors.torch import save_file

import untrain
from helpers.single_files import as_one
from helpers.small_pipelines import stable_diffusion
from untrain.diffusion.pipelines import load_pipeline

diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
START = "cond_stage_model.transformer."
folder = tmp()
pipeline = stable_diffusion(tmp()).to(torch.float32)
pipeline.save_pretrained(folder / "p")
weights = {name.replace(f"{START}text_model.", START): each.contiguous() for name, each in as_one(pipeline).items()}
save_file(weights, folder / "m.safetensors")
try:
    load_pipeline(folder / "m.safetensors", config=folder / "p")
except untrain.UntrainError as error:
    done("from_single_file(" in str(error), str(error)[:420])
done(False, "loaded")
