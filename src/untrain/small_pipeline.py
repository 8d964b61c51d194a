"""A small text-to-image pipeline, trained here: real classes of diffusers and transformers, in minutes on two cores.

What Stable Diffusion is made of, only smaller: a tokenizer with a vocabulary of its own, a frozen CLIP text encoder, a
VAE that makes images four times smaller, and a UNet with cross-attention that predicts v (Salimans, Ho: *Progressive
Distillation for Fast Sampling of Diffusion Models*, ICLR 2022). VAE and UNet are trained as models are everywhere here:
by `Retrain` over a task.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from untrain.data.samples import Arrays
from untrain.data.streams import Stream
from untrain.diffusion.latents import encode, latent_shape
from untrain.diffusion.pipelines import save_diffusers
from untrain.diffusion.text import encode_prompts
from untrain.engine import Engine, seed_of
from untrain.errors import CheckpointError, DataError, Diverged, SettingError
from untrain.io import hash_file, hash_json, write_json, write_text
from untrain.methods.base import Optimizer, Problem
from untrain.methods.loop import Checkpoints, run
from untrain.methods.retrain import Retrain
from untrain.models.subject import Subject
from untrain.tasks.text_to_image.concepts import ConceptSet, text_task
from untrain.types import Batch, Role, Task

TRAIN = Retrain(steps=1400, optimizer=Optimizer("adam", 2e-3), ema=0.99, max_norm=1.0)
"""How the UNet is trained well on the rendered shapes, in batches of 32."""
BATCH_SIZE = 32

RECORD = "trained.json"
"""What a pipeline was trained with and the hashes of its files, in its folder; without it, the folder is not whole."""
SAVED_EVERY = 20.0
"""Seconds between two states of a training that a stopped one goes on from."""

WINDOW = 16
"""Tokens of a prompt at most, its beginning and end included."""
TOKEN_SPREAD, POSITION_SPREAD = 0.5, 0.2
"""Standard deviations of the text encoder's embeddings. With CLIP's 0.02 for both, position and context would outweigh
a word (of two captions that differ in one, the embedding at that word differs by a quarter of its length, not by three
quarters), and the UNet would learn slowly what words mean."""
LOG_VARIANCE = -8.0
"""Of the VAE's posterior before training. As torch draws it, the deviation is 1 and drowns the mean at first."""
START, END = "<|startoftext|>", "<|endoftext|>"

_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 16, 32),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
"""With four channels of latents instead of eight, the error after 200 steps was half as much again."""
_UNET: dict[str, Any] = {
    "in_channels": _VAE["latent_channels"],
    "out_channels": _VAE["latent_channels"],
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "attention_head_dim": 4,  # which for this class is the number of heads
    "norm_num_groups": 8,
}
_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.02,  # 0.012, as of Stable Diffusion, leaves more of the mean of so small latents at the last step
    "prediction_type": "v_prediction",  # predicting noise, it learns brightness and colours far later
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_TEXT: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True)
class Frame:
    """How what stands around the UNet of a small pipeline is trained."""

    vae_steps: int = 800
    """Steps of the VAE."""
    vae_batch_size: int = 16
    """Images in each of them."""
    vae_lr: float = 1e-3
    """Adam's rate at the first of them; by half a cosine it falls to 0."""
    kl: float = 1e-5
    """Weight of the KL divergence of the VAE's posterior from a standard normal, beside the squared error of a pixel;
    both are means over elements."""
    drop: float = 0.1
    """Share of captions that the UNet is not told in training, so that guidance has something to guide away from."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.vae_steps, self.vae_batch_size) < 1:
            raise SettingError("a small pipeline needs vae_steps and vae_batch_size of at least 1.")
        if not (self.vae_lr > 0 and self.kl >= 0 and 0 <= self.drop < 1):
            raise SettingError(
                f"vae_lr must be above 0, kl ≥ 0 and drop in [0, 1), not {self.vae_lr}, {self.kl} and {self.drop}."
            )


def small_pipeline(
    source: Arrays,
    folder: str | Path,
    frame: Frame,
    train: Retrain,
    engine: Engine,
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Path:
    """Trains a StableDiffusionPipeline on captioned images, unless one from the same inputs is there already.

    Each training has a folder of its own, named by a hash of all that decides it, so that nothing is ever overwritten;
    one that was stopped goes on where it was last saved.

    Args:
        source: uint8 images [N, 3, H, W], height and width one multiple of 8; its classes are the captions.
        folder: where trained pipelines are kept.
        frame: how everything but the UNet is trained.
        train: how the UNet is trained; `TRAIN` suits the rendered shapes.
        engine: where to train.
        seed: of all weights, batches and noise.
        batch_size: images in each step of the UNet, over all processes.

    Returns:
        The pipeline's folder, which diffusers loads.

    Raises:
        DataError: if images or captions do not fit. CheckpointError: if a kept pipeline was changed.
        SettingError: if diffusers or transformers is missing, or `train` has no optimiser.
        Diverged: if a loss is not finite.
    """
    _check(source)
    facts = {
        "source": source.fingerprint(),
        "frame": asdict(frame),
        "train": asdict(train),
        "batch_size": batch_size,
        "seed": seed,
        "precision": engine.precision,
        "parts": [_VAE, _UNET, _SCHEDULER, _TEXT, WINDOW, TOKEN_SPREAD, POSITION_SPREAD, LOG_VARIANCE],
    }
    fingerprint = hash_json(facts)
    place = Path(folder) / f"pipeline-{fingerprint[:12]}"
    if not (place / RECORD).is_file():
        training = _Training(source, place, fingerprint, frame, train, engine, seed, batch_size)
        with torch.random.fork_rng(devices=[]):  # whoever builds a module draws weights; these are drawn anew, by seed
            pipeline, seconds = training.run()
        if engine.is_main:
            save_diffusers(pipeline, pipeline.unet, place)
            write_json(
                place / RECORD, {"fingerprint": fingerprint, **facts, "seconds": seconds, "files": _hashes(place)}
            )
            training.clean()
        engine.wait()
    _check_kept(place, fingerprint)
    return place


def _check(source: Arrays) -> None:
    absent = [name for name in ("diffusers", "transformers") if find_spec(name) is None]
    if absent:
        raise SettingError(f"text-to-image needs {' and '.join(absent)}: pip install 'untrain[diffusion]'.")
    shape = source.shape
    if source.input.dtype != torch.uint8 or len(shape) != 3 or shape[0] != 3 or shape[1] % 8 or shape[1] != shape[2]:
        raise DataError(
            "a pipeline is trained on square uint8 images [3, H, W], H a multiple of 8; these are "
            f"{source.input.dtype} {list(shape)}."
        )


def _check_kept(place: Path, fingerprint: str) -> None:
    """The pipeline of a folder must be as it was trained."""
    remedy = f"Remove {place} to train it anew."
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{place / RECORD} cannot be read: {error}. {remedy}") from error
    kept = record if isinstance(record, dict) else {}
    if [kept.get("fingerprint"), kept.get("files")] != [fingerprint, _hashes(place)]:
        raise CheckpointError(f"the pipeline in {place} is not the one that was trained there. {remedy}")


def _hashes(place: Path) -> dict[str, str]:
    """Hash of every file of a pipeline's folder, by its path in it."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and path != place / RECORD)
    return {path.relative_to(place).as_posix(): hash_file(path) for path in files}


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def write_vocabulary(captions: Sequence[str], folder: str | Path) -> None:
    """Writes vocab.json and merges.txt of a CLIP tokenizer that has every word of these captions as one token.

    As in CLIP, there is a token for every byte, alone and at a word's end, so that any other word can be written too,
    in more tokens.

    Args:
        captions: texts; the same words in any order give the same files.
        folder: is made if it is missing.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = sorted({word for text in captions for word in text.lower().split()})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=100_000, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(words, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), START, END]
    write_json(Path(folder) / "vocab.json", {token: number for number, token in enumerate(dict.fromkeys(tokens))})
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    write_text(Path(folder) / "merges.txt", "\n".join(lines) + "\n")


def tokenizer_of(captions: Sequence[str]) -> Any:
    """A CLIPTokenizer with the vocabulary of these captions."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory(prefix="untrain-") as folder:
        write_vocabulary(captions, folder)
        return CLIPTokenizer.from_pretrained(folder, model_max_length=WINDOW)


def text_encoder_of(tokenizer: Any, seed: int) -> Any:
    """A frozen CLIPTextModel with random weights, which give every text another embedding; see `TOKEN_SPREAD`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=WINDOW, **special, **_TEXT)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "text encoder"))
        encoder: Any = CLIPTextModel(config).eval().requires_grad_(False)
        for name, weight in encoder.named_parameters():
            if name.endswith("token_embedding.weight"):
                nn.init.normal_(weight, std=TOKEN_SPREAD)
            elif name.endswith("position_embedding.weight"):
                nn.init.normal_(weight, std=POSITION_SPREAD)
    return encoder


def new_vae(size: int) -> Any:
    """A VAE for images of this height and width, whose residual blocks add nothing at first, so that it learns fast.

    Source: Goyal et al.: *Accurate, Large Minibatch SGD*, 2017, of the last layer of a residual block.
    """
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    vae: Any = AutoencoderKL(**_VAE, sample_size=size)
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            for parameter in block.conv2.parameters():
                nn.init.zeros_(parameter)
    nn.init.constant_(vae.quant_conv.bias[_VAE["latent_channels"] :], LOG_VARIANCE)
    return vae


def new_unet(size: int) -> Any:
    """A UNet for latents of this height and width."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**_UNET, sample_size=size, cross_attention_dim=_TEXT["hidden_size"])


def captioned(pipeline: Any, source: Arrays, engine: Engine) -> ConceptSet:
    """Captioned images as a UNet sees them: latents, and the embedded captions; a caption is its own anchor.

    Args:
        pipeline: its VAE and text encoder are used.
        source: images that fit the VAE; its classes are the captions.
        engine: where the VAE runs.

    Raises:
        DataError: if a caption is longer than the text encoder's window, or images do not fit.
    """
    prompts = encode_prompts(pipeline, source.classes, source.shape[-1]).to("cpu")
    numbers = torch.tensor([prompts.number(text) for text in source.classes])
    numbered = Arrays(source.input, numbers[source.labels], prompts.texts, source.ids)
    latents = encode(pipeline.vae, numbered, engine, batch_size=64)
    anchors = torch.arange(len(prompts.texts))
    return ConceptSet(lambda: latents, latents.labels, prompts, anchors, latents.shape, latents.fingerprint())


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Reconstruction:
    """What a VAE is trained on: squared error of a pixel, and the posterior's KL divergence from a standard normal.

    Attributes:
        shape: (C, h, w) of a latent.
        kl: weight of the divergence.
    """

    shape: tuple[int, int, int]
    kl: float

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Images in [−1, 1], and the noise of their latents."""
        images = batch["input"].float() / 127.5 - 1
        noise = torch.randn(len(images), *self.shape, generator=generator)
        return {"input": images, "noise": noise.to(images.device), "index": batch["index"]}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of each image, [B]."""
        vae: Any = model
        posterior = vae.encode(batch["input"]).latent_dist
        made = vae.decode(posterior.mean + posterior.std * batch["noise"]).sample
        error = (made - batch["input"]).square().flatten(1).mean(1)
        return error + self.kl * posterior.kl() / batch["noise"][0].numel()


@dataclass(eq=False)
class _Training:
    """The training of one pipeline: first the VAE, then, on its latents, the UNet."""

    source: Arrays
    place: Path
    fingerprint: str
    frame: Frame
    train: Retrain
    engine: Engine
    seed: int
    batch_size: int

    def run(self) -> tuple[Any, dict[str, float]]:
        """The trained pipeline, and the seconds that each part took."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        tokenizer, seconds = tokenizer_of(self.source.classes), {}
        encoder = text_encoder_of(tokenizer, self.seed).to(self.engine.device)
        vae, seconds["vae"] = self._vae()
        small = latent_shape(vae, self.source.shape)[1]
        pipeline: Any = StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=new_unet(small),
            scheduler=DDIMScheduler(**_SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        data = captioned(pipeline, self.source, self.engine)
        task = text_task(pipeline, drop=self.frame.drop)
        unet, seconds["unet"] = self._trained("unet", self.train, lambda: new_unet(small), task, data, self.batch_size)
        pipeline.register_modules(unet=unet)
        return pipeline, seconds

    def _vae(self) -> tuple[Any, float]:
        """The trained VAE, frozen, its scaling factor set so that latents have a standard deviation of 1."""
        frame, size = self.frame, self.source.shape[1]
        method = Retrain(steps=frame.vae_steps, optimizer=Optimizer("adam", frame.vae_lr), max_norm=1.0)
        task = _Reconstruction(latent_shape(new_vae(size), self.source.shape), frame.kl)
        made, seconds = self._trained(
            "vae", method, lambda: new_vae(size), cast(Task, task), self.source, frame.vae_batch_size
        )
        vae: Any = made.requires_grad_(False)
        vae.register_to_config(scaling_factor=1.0)
        some = torch.linspace(0, len(self.source) - 1, min(len(self.source), 512)).round().long()
        latents = encode(vae, self.source.select(some), self.engine, batch_size=64)
        means = latents.batch(torch.arange(len(some)))["latent_mean"]
        vae.register_to_config(scaling_factor=round(1 / float(means.std()), 6))
        return vae, seconds

    def _trained(
        self, part: str, method: Retrain, make: Callable[[], nn.Module], task: Task, data: Any, batch_size: int
    ) -> tuple[nn.Module, float]:
        """One part with new weights, trained; and the seconds that it took."""
        seed = seed_of(self.seed, part)
        stream = Stream(data, "retain", self.engine, batch_size, seed)
        subject = Subject(make().to(self.engine.device), init=make)
        problem = Problem(subject, task, stream, stream, seed=seed)
        checkpoints = Checkpoints(self._saved(part), self.fingerprint, resume=True, every=SAVED_EVERY)
        try:
            title = f"training the pipeline's {part}"
            done = run(method, problem, self.engine, checkpoints=checkpoints, title=title)
        except Diverged as error:
            raise Diverged(f"the {part} of the small pipeline: {error}") from error
        return done.state.module, done.seconds

    def _saved(self, part: str) -> Path:
        return self.place.with_name(f"{self.place.name}.{part}.tmp")

    def clean(self) -> None:
        """Removes what a stopped training would have gone on from."""
        for part in ("vae", "unet"):
            self._saved(part).unlink(missing_ok=True)
