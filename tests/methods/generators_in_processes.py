"""What one process does, for `torchrun`: short runs of methods on a tiny generator.

Usage: generators_in_processes.py OUT; the main process writes OUT. Batches have an odd number of samples.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_on_generators import SHARED, method

from small_generators import denoiser, problem
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


if __name__ == "__main__":
    main(*sys.argv[1:])
