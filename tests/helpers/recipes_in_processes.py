"""What one process does, for `torchrun`: a generator's whole recipe, in float64.

Usage: python -m helpers.recipes_in_processes RECIPE OUT
"""

import sys

import torch

from untrain.runs.recipe import read
from untrain.runs.stages import run_recipe

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    run_recipe(read(sys.argv[1], ["--out", sys.argv[2], *sys.argv[3:]]))
