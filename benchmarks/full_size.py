"""What adapters cost on generators at their full size: seconds and peak memory of a Fisher batch and of two steps.

    python benchmarks/full_size.py                                      # SDXL's UNet
    python benchmarks/full_size.py --models sdxl sd3 pixart --threads 1
    python benchmarks/full_size.py --models sdxl --size 128 --batch 4 --device cuda
    python benchmarks/full_size.py --models sdxl sd3 pixart --limit 0   # what `untrain plan` says, and nothing is run

The networks have their public configurations and random weights, which are made in bfloat16 and never in float32. A
run is a user's: `untrain.unlearn` with a network of diffusers, ready batches of latents and embedded texts, adapters of
rank 8 where the texts come in, in float32, changed in place: a batch of each set for the Fisher, and two outer steps of
SFR-on of one forget and one retain step each. Each network runs in a process of its own.

"Planned" is what `untrain plan` counts of the same run (`untrain.runs.dry_run`): tensors alone. "Peak" is what the
process or the CUDA device held at most, of a process less what it held before there were weights.
"""

import argparse
import json
import subprocess
import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators import GIB, peak
from text_to_image import Meter, cell
from untrain.api import unlearn
from untrain.data.streams import Stream
from untrain.diffusion.paths import Flow
from untrain.diffusion.single_file import PUBLIC
from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem, State
from untrain.methods.sfron import SFRon
from untrain.models.adapters import Adapters, count_parameters
from untrain.models.subject import Subject
from untrain.runs.dry_run import CountingEngine, Footprint, ShapedProblem, ShapedStream, try_method
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Batch

_, XL = PUBLIC
SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 192,
}
"""stabilityai/stable-diffusion-3-medium-diffusers, transformer."""
PIXART = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "attention_head_dim": 72,
    "num_attention_heads": 16,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "num_embeds_ada_norm": 1000,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "use_additional_conditions": False,
}
"""PixArt-alpha/PixArt-Sigma-XL-2-1024-MS, transformer."""
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "sdxl": (
        "UNet2DConditionModel",
        PUBLIC[XL]["unet"][2],
        {},
        {"prompt": (77, 2048), "prompt_pooled": (1280,), "time_ids": (6,)},
    ),
    "sd3": (
        "SD3Transformer2DModel",
        SD3,
        {"flow": Flow(shift=3.0)},
        {"prompt": (77 + 256, 4096), "prompt_pooled": (2048,)},
    ),
    "pixart": ("PixArtTransformer2DModel", PIXART, {}, {"prompt": (300, 4096), "prompt_mask": (300,)}),
}
"""Class of diffusers, its configuration, settings of the task, and what a row of a batch knows of a text."""
TINY = {
    "sdxl": {
        "block_out_channels": [8, 16, 16],
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 1, 1],
        "attention_head_dim": [1, 2, 2],
    },
    "sd3": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16},
    "pixart": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16},
}
"""What differs with --tiny, which is there for the test of this script."""
ADAM = Optimizer("adam", 1e-4)
SETTINGS: dict[str, Any] = {"steps": 2, "retain_steps": 1, "optimizer": ADAM, "forget_optimizer": ADAM}
STAGES = ("build", "before", "fisher", "first step", "second step", "merge")


class Watched(SFRon):
    """SFR-on that tells the meter where it is."""

    meter: ClassVar[Meter]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The Fishers, with all before it apart."""
        self.meter.mark("before")
        state = super().start(problem, engine)
        self.meter.mark("fisher")
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """One outer step."""
        log = super().step(state, k)
        self.meter.mark(("first step", "second step")[k])
        return log


def empty(name: str, tiny: bool) -> nn.Module:
    """A network of a public configuration in bfloat16, without values."""
    import diffusers

    kind, settings, _, _ = MODELS[name]
    with torch.device("meta"):
        made: nn.Module = getattr(diffusers, kind)(**{**settings, **(TINY[name] if tiny else {})})
    return made.to(torch.bfloat16).eval()


def filled(module: nn.Module, device: torch.device) -> nn.Module:
    """The same with values: weights uniform with a variance of one over their inputs, of normalisation 1, biases 0.

    No library draws bfloat16 at the speed of its memory: a block of a million is drawn once, and laid down repeatedly.
    """
    module.to_empty(device=device)
    block = torch.rand(2**20, generator=torch.Generator().manual_seed(0)).sub_(0.5).to(device, torch.bfloat16)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim < 2:
                tensor.fill_(0.0)
                continue
            flat, scale = tensor.view(-1), (12 / tensor[0].numel()) ** 0.5
            for part in flat.split(block.numel()):
                part.copy_(block[: part.numel()]).mul_(scale)
        for layer in module.modules():
            weight = getattr(layer, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim == 1:
                weight.fill_(1.0)
    return module


def task_of(name: str) -> TextToImage:
    """The task as a pipeline's scheduler would tell it."""
    return TextToImage(**MODELS[name][2])


def batch_of(name: str, module: nn.Module, label: int, arguments: argparse.Namespace) -> Batch:
    """A ready batch of random latents and texts."""
    rows, size = arguments.batch, arguments.size
    g = torch.Generator().manual_seed(label)
    channels = int(module.config.in_channels)  # type: ignore[union-attr, arg-type]
    found: Batch = {
        "input": torch.randn(rows, channels, size, size, generator=g),
        "label": torch.full((rows,), label),
        "index": torch.arange(rows) + label * rows,
    }
    for key, shape in MODELS[name][3].items():
        if key == "time_ids":
            found[key] = torch.tensor([8.0 * size, 8.0 * size, 0.0, 0.0, 8.0 * size, 8.0 * size]).repeat(rows, 1)
            continue
        for text in ("prompt", "anchor", "empty"):
            drawn = torch.randn(rows, *shape, generator=g)
            found[key.replace("prompt", text)] = torch.ones_like(drawn).long() if key.endswith("mask") else drawn
    return found


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak bytes of every stage of a run."""
    engine = Engine.start(arguments.device)
    before = peak(engine) if engine.device.type == "cpu" else 0
    meter = Watched.meter = Meter(engine)
    module = filled(empty(name, arguments.tiny), engine.device)
    meter.mark("build")
    sets = {which: [batch_of(name, module, k, arguments)] for k, which in enumerate(("forget", "retain"))}
    result = unlearn(
        module,
        task=task_of(name),
        method=Watched,
        **sets,
        device=arguments.device,
        inplace=True,
        adapters=Adapters(rank=arguments.rank, base="bf16"),
        **SETTINGS,
    )
    meter.mark("merge")
    if not all(torch.isfinite(torch.tensor(record["forget_loss"])) for record in result.history):
        raise SystemExit(f"{name}: a loss is not finite.")
    return {"stages": meter.found, "before": before}


def planned(name: str, arguments: argparse.Namespace) -> tuple[int, int, Footprint]:
    """Weights and adapters in numbers, and what `untrain plan` counts of the run."""
    engine, module, task = CountingEngine(), empty(name, arguments.tiny), task_of(name)
    adapters = Adapters(rank=arguments.rank, base="bf16")
    counts = sum(p.numel() for p in module.parameters()), count_parameters(module, adapters)[0]
    streams = {}
    for k, which in enumerate(("forget", "retain")):
        stream = Stream([batch_of(name, module, k, arguments)], which, Engine(torch.device("cpu")), arguments.batch)
        streams[which] = ShapedStream(stream, None, engine)
    few = streams["forget"].batch(0, task, "evaluate")
    problem = ShapedProblem(Subject(module, adapters=adapters), task.prepare(module, few), **streams)
    return *counts, try_method(SFRon(**SETTINGS), problem, engine)


def apart(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `measure` finds in a process of its own; {} where it failed."""
    command = [sys.executable, __file__, "--measure", "--models", name]
    for option in ("batch", "size", "rank", "threads"):
        command += [f"--{option}", str(getattr(arguments, option))]
    command += ["--tiny"] if arguments.tiny else []
    command += [] if arguments.device is None else ["--device", arguments.device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = {} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", "--model", nargs="+", default=["sdxl"], choices=list(MODELS))
    parser.add_argument("--batch", type=int, default=1, help="samples a batch")
    parser.add_argument("--size", type=int, default=16, help="height and width of a latent")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--limit", type=float, default=14.0, help="GiB; what is planned to need more is not run")
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(measure(arguments.models[0], arguments)))
        return
    device = arguments.device or "default device"
    print(f"Planned, GiB; latents of {arguments.size}², batch {arguments.batch}, rank {arguments.rank}:\n")
    heads = ("weights", "gradients", "optimizer", "found", "copies", "activations", "total")
    print(f"| model | weights, adapters | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    told = {}
    for name in arguments.models:
        weights, learned, footprint = planned(name, arguments)
        told[name] = footprint
        sizes = " | ".join(f"{getattr(footprint, head) / GIB:.2f}" for head in heads)
        print(f"| {name} | {weights:,}, {learned:,} | {sizes} |", flush=True)
    runs = [name for name in arguments.models if told[name].total <= arguments.limit * GIB]
    if len(runs) < len(told):
        left = ", ".join(name for name in told if name not in runs)
        print(f"\nNot run, since more than {arguments.limit:g} GiB would be needed: {left}.")
    if not runs:
        return
    print(f"\nSeconds (of the processor), peak GiB; {device}, {arguments.threads} threads:\n")
    print(f"| model | {' | '.join(STAGES)} | peak | planned |\n|---|{'---|' * (len(STAGES) + 2)}")
    failed = []
    for name in runs:
        found = apart(name, arguments)
        if not found:
            failed.append(name)
            continue
        stages = found["stages"]
        highest = max(stages[stage]["peak"] for stage in STAGES) - found["before"]
        cells = " | ".join(cell(stages[stage]) for stage in STAGES)
        print(f"| {name} | {cells} | {highest / GIB:.2f} | {told[name].total / GIB:.2f} |", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(runs)} did not end: {failed}. Their last words are above.")


if __name__ == "__main__":
    main()
