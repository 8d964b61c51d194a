"""What one process does among several: a whole recipe, in float64."""

import torch

from untrain.runs.recipe import read
from untrain.runs.stages import run_recipe


def run_in_float64(recipe, out, *flags):
    torch.set_default_dtype(torch.float64)
    run_recipe(read(recipe, ["--out", str(out), *flags]))
