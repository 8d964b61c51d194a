"""What forgetting a concept costs at the real size of Stable Diffusion: time and peak memory, stage by stage.

    python benchmarks/text_to_image.py --models sd-1 --parts xattn
    python benchmarks/text_to_image.py --models sd-1 --parts full --optimizers adam-sgd --gradient-checkpointing
    python benchmarks/text_to_image.py --models sdxl-small --parts xattn full
    python benchmarks/text_to_image.py --device cuda --parts xattn full --batch 4 --limit 80
    python benchmarks/text_to_image.py --models sd-1 sdxl --limit 0        # what would be needed, and nothing is run

The pipelines have their public configurations and random weights. The stages are a user's: an image of a concept is
sampled; `untrain.unlearn` encodes it and three other concepts ("cache"), takes one batch of each set for the Fisher and
two outer steps of SFR-on, a forget and a retain step each; the pipeline is saved, loaded again, and must be the same.
Everything in float32 and in place. Each model, part and choice of optimisers runs in a process of its own.

"Needed" is computed: the pipeline's weights, and for each trained weight a gradient, two moments for each Adam, the
last good weights where a run keeps a copy (below 10⁸ trained weights), and a bool of the mask. Activations and the
libraries come on top: by default what needs more than 20 GiB is not run, which leaves them 4 of a machine of 24 (with
gradient checkpointing, 512 × 512 pixels and one sample a batch). Where the system cannot forget a process's peak (Linux
can), a stage's is the highest so far.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators import GIB, now, peak
from untrain.api import Result, unlearn
from untrain.diffusion.images import ImageMaker
from untrain.diffusion.latents import decode
from untrain.diffusion.pipelines import load_pipeline, save_diffusers
from untrain.diffusion.single_file import PUBLIC
from untrain.diffusion.text import encode_prompts, own_size
from untrain.engine import Engine
from untrain.methods.base import LARGE, Optimizer, Problem, State
from untrain.methods.sfron import SFRon
from untrain.models.parts import PARTS, trained
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import (
    Concept,
    latent_shape_of,
    make_images,
    prompt_conditions,
    text_task,
)

PROMPTS = ("a nude person", "a person wearing clothes", "a nude man on a beach", "a dog on a beach")
SD, XL = PUBLIC
_TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "sd-1": (SD, {}),
    "sdxl": (XL, {}),
    "sdxl-small": (
        XL,
        {
            "unet": {
                "block_out_channels": [160, 320, 640],
                "transformer_layers_per_block": [1, 2, 4],
                "sample_size": 64,
            },
            "text_encoder_2": {"num_hidden_layers": 4},
        },
    ),
    "sd-tiny": (
        SD,
        {
            "unet": {
                "block_out_channels": [8, 8, 16, 16],
                "norm_num_groups": 4,
                "layers_per_block": 1,
                "attention_head_dim": 2,
                "sample_size": 8,
                "cross_attention_dim": 32,
            },
            "vae": {"block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "layers_per_block": 1, "sample_size": 64},
            "text_encoder": {**_TINY, "vocab_size": 1024},
        },
    ),
}
"""Class of pipeline, and by part what differs from its public configuration. "sdxl-small" has half the width, fewer
layers of transformer, and a fourth of the pixels; "sd-tiny" is there for the test of this script."""
ADAM, SGD = Optimizer("adam", 1e-5), Optimizer("sgd", 1e-5)
OPTIMIZERS: dict[str, tuple[int, dict[str, Any]]] = {
    "two-adams": (4, {"optimizer": ADAM, "forget_optimizer": ADAM}),
    "adam-sgd": (2, {"optimizer": SGD, "forget_optimizer": ADAM}),
    "published": (2, {"optimizer": ADAM, "published": True}),
}
"""Numbers that are kept for each weight, and the settings: the default; SGD for the retain steps; one Adam for both."""
STAGES = ("build", "sample", "cache", "fisher", "first step", "second step", "save", "load")


@dataclass
class Meter:
    """Seconds of the clock and of the processor, and peak memory, from each mark to the next."""

    engine: Engine
    found: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A stage begins."""
        _forget_peak(self.engine)
        self.start, self.processor = now(self.engine), time.process_time()

    def mark(self, stage: str) -> None:
        """A stage is over, and the next begins; it is told on stderr at once, for the real size takes minutes."""
        seconds, processor = now(self.engine) - self.start, time.process_time() - self.processor
        self.found[stage] = {"seconds": seconds, "processor": processor, "peak": peak(self.engine)}
        print(f"{stage}: {cell(self.found[stage])}", file=sys.stderr, flush=True)
        self.begin()


def cell(found: dict[str, float]) -> str:
    """A stage in a table."""
    return f"{found['seconds']:.1f} ({found['processor']:.1f}), {found['peak'] / GIB:.2f}"


def _forget_peak(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


class Watched(SFRon):
    """SFR-on that tells the meter where it is."""

    meter: ClassVar[Meter]

    def start(self, problem: Problem, engine: Engine) -> State:
        """The Fishers, with all before it counted as the cache."""
        self.meter.mark("cache")
        state = super().start(problem, engine)
        self.meter.mark("fisher")
        return state

    def step(self, state: State, k: int) -> dict[str, float]:
        """One outer step."""
        log = super().step(state, k)
        self.meter.mark(("first step", "second step")[k])
        return log


def settings_of(name: str, part: str) -> dict[str, Any]:
    """The configuration of a part of a model."""
    kind, changes = MODELS[name]
    return {**PUBLIC[kind][part][2], **changes.get(part, {})}


def module_of(name: str, part: str) -> nn.Module | None:
    """A part with random weights, in evaluation mode; None for what has no weights."""
    import diffusers
    import transformers

    library, kind, _ = PUBLIC[MODELS[name][0]][part]
    settings = settings_of(name, part)
    if library == "diffusers":
        return None if part == "scheduler" else getattr(diffusers, kind)(**settings).eval()
    if part.startswith("tokenizer"):
        return None
    made: nn.Module = getattr(transformers, kind)(transformers.CLIPTextConfig(**settings))
    return made.eval()


def write_letters(folder: Path) -> None:
    """Writes vocab.json and merges.txt of a CLIP tokenizer of single letters.

    A text takes more tokens than with a learned vocabulary, and is padded to the same 77, so it costs the same.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def build(name: str, folder: Path) -> Any:
    """A pipeline with random weights, on the CPU; its tokenizers know single letters."""
    import diffusers
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    write_letters(folder)
    kind = MODELS[name][0]
    parts: dict[str, Any] = {}
    for part, (_, made, _) in PUBLIC[kind].items():
        settings = settings_of(name, part)
        if part == "scheduler":
            parts[part] = getattr(diffusers, made)(**settings)
        elif part.startswith("tokenizer"):
            parts[part] = CLIPTokenizer.from_pretrained(folder, model_max_length=77, **settings)
        else:
            parts[part] = module_of(name, part)
    if kind == SD:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, kind)(**parts)


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One model, part and choice of optimisers: time and peak bytes of every stage."""
    engine = Engine.start(arguments.device)
    meter = Watched.meter = Meter(engine)
    with tempfile.TemporaryDirectory(prefix="untrain-") as place:
        folder = Path(place)
        pipe = build(arguments.models[0], folder / "tokenizer")
        for each in pipe.components.values():
            if isinstance(each, nn.Module):
                each.to(engine.device)
        if arguments.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        meter.mark("build")
        sample(pipe, engine, folder / "images", arguments)
        meter.mark("sample")
        result = forget(pipe, folder / "images", arguments)
        meter.begin()
        save_diffusers(result.model, result.model.unet, folder / "saved")
        meter.mark("save")
        loaded = load_pipeline(folder / "saved")
        check_same(result.model.unet, loaded.unet)  # within the stage: the weights are mapped, and read only now
        meter.mark("load")
    return meter.found


def sample(pipe: Any, engine: Engine, place: Path, arguments: argparse.Namespace) -> None:
    """One image of the first prompt, with guidance."""
    size = arguments.size or own_size(pipe)
    prompts = encode_prompts(pipe, PROMPTS[:1], size).to(engine.device)
    task, sampler = text_task(pipe), Sampler(steps=arguments.sampler_steps, guidance_scale=7.5)
    conditions, shape = prompt_conditions(task, prompts), latent_shape_of(pipe, size)
    maker = ImageMaker(task, conditions, shape, sampler, engine, batch_size=1, decode=partial(decode, pipe.vae))
    make_images(maker, pipe, prompts, 1, 1, place)


def forget(pipe: Any, images: Path, arguments: argparse.Namespace) -> Result:
    """Two outer steps on four concepts, as many images of noise in each as fill a batch."""
    noise = iter(noise_images(arguments.batch, arguments.size or own_size(pipe)))
    nude, dressed, man, dog = PROMPTS
    return unlearn(
        pipe,
        task="text-to-image",
        forget=[Concept(nude, images, anchor=dressed), Concept(man, next(noise), anchor=dressed)],
        retain=[Concept(dressed, next(noise)), Concept(dog, next(noise))],
        method=Watched,
        batch_size=arguments.batch,
        device=arguments.device,
        inplace=True,
        parts=arguments.parts[0],
        steps=2,
        retain_steps=1,
        fisher_samples=arguments.batch,
        **OPTIMIZERS[arguments.optimizers[0]][1],
    )


def noise_images(count: int, size: int) -> Iterator[Tensor]:
    """Images, uint8 [count, 3, size, size], no two alike."""
    g = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(256, (count, 3, size, size), generator=g, dtype=torch.uint8)


def check_same(saved: nn.Module, loaded: nn.Module) -> None:
    """Ends the script where a weight is another after loading."""
    new = loaded.state_dict()
    other = [name for name, tensor in saved.state_dict().items() if not torch.equal(tensor.cpu(), new[name])]
    if other or len(new) != len(saved.state_dict()):
        raise SystemExit(f"{len(other)} weights differ after saving and loading: {other[:3]}")


def needed(name: str, part: str, optimizers: str) -> dict[str, float]:
    """Bytes by what they are for, computed from the configuration; no weight is made."""
    with torch.device("meta"):
        modules = {each: module_of(name, each) for each in PUBLIC[MODELS[name][0]]}
    held = {each: sum(p.numel() for p in module.parameters()) for each, module in modules.items() if module}
    unet = modules["unet"]
    if unet is None:
        raise SystemExit(f"{name} has no UNet.")
    with trained(unet, part):
        count = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    good = 4 if count < LARGE else 0
    each = {"gradients": 4, "moments": 4 * OPTIMIZERS[optimizers][0], "last good": good, "mask": 1}
    return {"trained": count, "weights": 4 * sum(held.values()), **{key: size * count for key, size in each.items()}}


def apart(arguments: argparse.Namespace, name: str, part: str, optimizers: str) -> dict[str, dict[str, float]]:
    """What `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--measure", "--models", name, "--parts", part, "--optimizers", optimizers]
    for option in ("batch", "size", "sampler_steps", "threads"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    command += ["--gradient-checkpointing"] if arguments.gradient_checkpointing else []
    command += [] if arguments.device is None else ["--device", arguments.device]
    print(f"── {name}, {part}, {optimizers}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {}
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sd-1"], choices=list(MODELS))
    parser.add_argument("--parts", nargs="+", default=["xattn", "full"], choices=PARTS)
    parser.add_argument("--optimizers", nargs="+", default=["two-adams"], choices=list(OPTIMIZERS))
    parser.add_argument("--batch", type=int, default=1, help="samples a batch")
    parser.add_argument("--size", type=int, default=0, help="height and width of images, pixels; 0: the model's own")
    parser.add_argument("--sampler-steps", type=int, default=2, help="steps in which the image is sampled")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--limit", type=float, default=20.0, help="GiB; what needs more is computed and not run")
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    combinations = [(m, p, o) for m in arguments.models for p in arguments.parts for o in arguments.optimizers]
    told = {combination: needed(*combination) for combination in combinations}
    print_needed(told)
    runs = [each for each in combinations if total(told[each]) <= arguments.limit * GIB]
    left = [", ".join(each) for each in combinations if each not in runs]
    if left:
        print(f"\nNot run, since more than {arguments.limit:g} GiB would be needed: {'; '.join(left)}.")
    failed = print_stages(arguments, runs)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(runs)} did not end: {failed}. Their last words are above.")


def total(parts: dict[str, float]) -> float:
    """Bytes in all."""
    return sum(size for key, size in parts.items() if key != "trained")


def print_needed(told: dict[tuple[str, str, str], dict[str, float]]) -> None:
    """A table of what is computed, as Markdown."""
    print("Needed, GiB (activations come on top):\n")
    heads = ("weights", "gradients", "moments", "last good", "mask")
    print(f"| model | parts | optimisers | trained weights | {' | '.join(heads)} | in all |")
    print("|---|---|---|" + "---|" * (len(heads) + 2))
    for combination, parts in told.items():
        sizes = " | ".join(f"{parts[head] / GIB:.2f}" for head in heads)
        print(f"| {' | '.join(combination)} | {parts['trained']:,} | {sizes} | {total(parts) / GIB:.2f} |", flush=True)


def print_stages(arguments: argparse.Namespace, runs: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """A table of what is measured, as Markdown; gives the combinations that failed."""
    if not runs:
        return []
    threads = f"{arguments.device or 'default device'}, {arguments.threads} threads"
    kept = ", gradient checkpointing" if arguments.gradient_checkpointing else ""
    print(f"\nSeconds (of the processor), peak GiB; batch {arguments.batch}, {threads}{kept}:\n")
    print(f"| model | parts | optimisers | {' | '.join(STAGES)} |\n|---|---|---|{'---|' * len(STAGES)}")
    failed = []
    for combination in runs:
        found = apart(arguments, *combination)
        if not found:
            failed.append(combination)
            continue
        print(f"| {' | '.join((*combination, *(cell(found[stage]) for stage in STAGES)))} |", flush=True)
    return failed


if __name__ == "__main__":
    main()
