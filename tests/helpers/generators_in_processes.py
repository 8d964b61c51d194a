"""What one process does among several: short runs of methods on a tiny generator.

The main process writes OUT. Batches have an odd number of samples.
"""

import torch

from helpers.generator_methods import SHARED, method
from helpers.small_generators import denoiser, problem
from untrain.engine import Engine
from untrain.methods.loop import run


def main(out):
    """Runs the methods on the tiny DiT."""
    content, engine = {}, Engine.start("cpu")
    for name in SHARED:
        work, _ = problem(denoiser("dit-learned"), batch_size=5)
        for stream in (work.forget, work.retain):
            stream.engine = engine
        done = run(method(name), work, engine)
        content |= {f"{name}/{key}": value for key, value in done.state.module.state_dict().items()}
    content["processes"] = torch.tensor(engine.num_processes)
    if engine.is_main:
        torch.save(content, out)
    engine.wait()
