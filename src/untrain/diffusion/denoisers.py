"""Class-conditional noise predictors to train and to unlearn: by name, from diffusers' folders, from DiT's own files.

All are called as `model(x_t, t, class_labels=c)`, as those of diffusers are, and all but a user's own are such; one
class more than the data has stands for "no class" (classifier-free guidance; Ho, Salimans 2022). New weights are drawn
as diffusers draws them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval

from untrain.diffusion.folders import local_folder
from untrain.errors import CheckpointError, ModelError, SettingError, UnknownName, unknown
from untrain.io import open_atomic
from untrain.lazy import nn, torch
from untrain.models.checkpoints import State, load_into
from untrain.models.classifiers import build_users_own
from untrain.models.kinds import plain_module
from untrain.models.pretrained import check_folder, read_object
from untrain.settings import Setting, arguments_of, read_arguments

if TYPE_CHECKING:
    from torch import Tensor

FREQUENCIES = "timestep_frequencies"
"""Which sinusoids encode a timestep: f_i = 10000^(−i/128) in the original DiT ("original"), 10000^(−i/127) in diffusers
("diffusers"). An option of `build_denoiser`, and an entry of saved configurations that diffusers itself ignores."""

_CLASSES = {"unet": "UNet2DModel", "dit": "DiTTransformer2DModel"}
_OURS = ("sample_size", "in_channels", "out_channels", "num_class_embeds", "num_embeds_ada_norm")


@dataclass(frozen=True)
class Denoiser:
    """A kind of noise predictor.

    Attributes:
        description: one line, for lists.
        kind: "unet" (diffusers' UNet2DModel) or "dit" (diffusers' DiTTransformer2DModel); None: the name stands for
            a family of names.
        settings: arguments of that class besides sizes and classes, and two of our own: `learned_variance` (twice as
            many output channels) and, for "dit", `timestep_frequencies`.
    """

    description: str
    kind: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def _unet(*channels: int, attention: tuple[bool, ...], **more: Any) -> dict[str, Any]:
    down = tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attention)
    up = tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention))
    return {"block_out_channels": channels, "down_block_types": down, "up_block_types": up, **more}


def _dit(layers: int, width: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"num_layers": layers, "num_attention_heads": heads, "attention_head_dim": width // heads, **more}


_PEEBLES_XIE = {"learned_variance": True, FREQUENCIES: "original", "norm_eps": 1e-6}
"""What the models of the DiT paper share; its code has 1e-6 in every normalisation, diffusers' default is 1e-5."""

DENOISERS: dict[str, Denoiser] = {
    "unet-small": Denoiser(
        "UNet2DModel, channels 32 and 32, 290,000 parameters; for images of 8×8 on a CPU",
        "unet",
        _unet(32, 32, attention=(False, True), layers_per_block=1, norm_num_groups=8, attention_head_dim=16),
    ),
    "ddpm-cifar10": Denoiser(
        "the 32×32 UNet of Ho et al. 2020: channels 128 × (1, 2, 2, 2), attention at 16×16, dropout 0.1",
        "unet",
        _unet(
            *(128, 256, 256, 256),
            attention=(False, True, False, False),
            layers_per_block=2,
            dropout=0.1,
            attention_head_dim=None,  # one head, as wide as its input
            norm_eps=1e-6,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
        ),
    ),
    "dit-tiny": Denoiser("DiTTransformer2DModel, 4 layers of 64, 390,000 parameters", "dit", _dit(4, 64, 4)),
    "dit-s-2": Denoiser("DiT-S/2 (Peebles, Xie 2023), learned variance", "dit", _dit(12, 384, 6, **_PEEBLES_XIE)),
    "dit-b-2": Denoiser("DiT-B/2, learned variance", "dit", _dit(12, 768, 12, **_PEEBLES_XIE)),
    "dit-l-2": Denoiser("DiT-L/2, learned variance", "dit", _dit(24, 1024, 16, **_PEEBLES_XIE)),
    "dit-xl-2": Denoiser("DiT-XL/2, learned variance", "dit", _dit(28, 1152, 16, **_PEEBLES_XIE)),
    "diffusers:PATH_OR_ID": Denoiser("the architecture of a saved UNet2DModel, DiTTransformer2DModel or pipeline"),
    "MODULE:FACTORY": Denoiser("a function of your own that returns a module, called as model(x, t, class_labels=c)"),
}
"""The known noise predictors, by name; an entry with a colon stands for a family of names.

The sizes of DiT are the paper's. As diffusers builds it, every block has its own copy of the embeddings of timestep and
class, so that DiT-XL/2 has 750 million parameters here instead of 675. Copies that are equal, as those of the
original's weights are, stay one weight in every method (`dit_copies`).
"""


def build_denoiser(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32, seed: int = 0, **options: Any
) -> nn.Module:
    """A noise predictor with new weights, in training mode.

    Args:
        name: a key of `DENOISERS`; "diffusers:PATH_OR_ID" for the architecture of a saved model or pipeline, fitted
            to these classes, channels and size (`load_denoiser` gives one with its weights); or "MODULE:FACTORY" for a
            function of the user's own, which gets those of num_classes, in_channels and image_size that it takes.
        num_classes: classes of the data, without "no class".
        in_channels: channels of an image or latent.
        image_size: its height and width.
        seed: of the new weights; global random state is left as it was.
        options: put over the settings; arguments of the class in diffusers, `learned_variance`, and for a DiT
            `timestep_frequencies`; or more arguments of the function.

    Raises:
        UnknownName: lists the known models. SettingError: an option is unknown, or the size does not fit.
        CheckpointError: a folder does not hold a known model. ModelError: a model of the user's own cannot be built.
    """
    if num_classes < 1 or in_channels < 1 or image_size < 1:
        raise SettingError(
            "a noise predictor needs num_classes, in_channels and image_size ≥ 1, "
            f"not {num_classes}, {in_channels} and {image_size}."
        )
    prefix, colon, target = name.partition(":")
    if colon and prefix != "diffusers":
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        with _seeded(seed):
            return build_users_own(name, sizes, options, DENOISERS)
    if colon:
        kind, settings = _architecture(_denoiser_folder(target))
    else:
        chosen = DENOISERS.get(name)
        if chosen is None or chosen.kind is None:
            raise UnknownName(unknown("model", name, DENOISERS))
        kind, settings = chosen.kind, dict(chosen.settings)
    settings |= _checked(name, kind, options)
    _check_size(name, kind, settings, image_size)
    with _seeded(seed):
        return _built(name, kind, settings, num_classes, in_channels, image_size)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """New weights inside the block are those of a seed; global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the accelerators' generators
        yield


def fresh_denoiser(module: nn.Module) -> nn.Module:
    """The architecture of a module of diffusers with new weights, drawn from torch's global generator.

    Meant for `Subject(module, init=lambda: fresh_denoiser(module))`, which seeds that generator.

    Raises:
        ModelError: if the module has no configuration of diffusers.
    """
    plain: Any = plain_module(module)
    if not is_of_diffusers(module):
        raise ModelError(f"{type(plain).__name__} is not a model of diffusers: pass init=, which makes a new one.")
    known = inspect.signature(type(plain).__init__).parameters
    made = type(plain)(**{key: value for key, value in plain.config.items() if key in known})
    return _with_frequencies(made, plain.config.get(FREQUENCIES, "diffusers")).to(plain.dtype).train()


def is_of_diffusers(module: nn.Module) -> bool:
    """Whether a module is one of diffusers, which has a configuration; others' `config` may be anything."""
    library: Any = sys.modules.get("diffusers")
    return library is not None and isinstance(plain_module(module), library.ConfigMixin)


def load_denoiser(path: str | Path) -> nn.Module:
    """The noise predictor with its weights that diffusers saved in a folder, or of a hub id, in training mode.

    Raises:
        CheckpointError: if there is none, its kind is not known, or its weights do not fit its configuration.
    """
    import diffusers

    folder = _denoiser_folder(path)
    kind, settings = _architecture(folder)
    try:
        module, found = getattr(diffusers, _CLASSES[kind]).from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the weights in {folder} cannot be read: {error}") from error
    wrong = {key: found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if found.get(key)}
    if wrong:
        raise CheckpointError(f"the weights in {folder} were made for another configuration than beside them: {wrong}.")
    return _with_frequencies(module, settings.get(FREQUENCIES, "diffusers")).train()


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copies the weights of a noise predictor that diffusers saved into one of the same architecture.

    Unlike names and shapes, the configurations also tell apart what computes otherwise with the same weights: the
    number of heads, what encodes a timestep, the size of images that positions are meant for.

    Raises:
        CheckpointError: if there is none, or it has another architecture; the module is unchanged then.
    """
    stored: Any = load_denoiser(path)
    own, theirs = (_computing(each) for each in (module, stored))
    other = [
        f"{key} ({theirs.get(key)!r}, the model has {own.get(key)!r})"
        for key in sorted({*own, *theirs})
        if own.get(key) != theirs.get(key)
    ]
    if other:
        raise CheckpointError(
            f"{path} was made for another architecture. Of another value: {', '.join(other)}. "
            "Build the model as diffusers:PATH_OR_ID, from its own configuration."
        )
    load_into(module, stored.state_dict())


def denoiser_of(pipeline: Any) -> nn.Module:
    """The module of a pipeline that predicts noise.

    Raises:
        CheckpointError: if it has neither a transformer nor a UNet.
    """
    return getattr(pipeline, denoiser_name(getattr(pipeline, "components", {}), type(pipeline).__name__))


def denoiser_name(parts: Mapping[str, Any], owner: str) -> str:
    """Under which name a pipeline holds what predicts noise.

    Args:
        parts: the pipeline's parts, or their entries in model_index.json.
        owner: what the message calls the pipeline.
    """
    for name in ("transformer", "unet"):
        if parts.get(name) is not None:
            return name
    raise CheckpointError(f"{owner} holds neither a transformer nor a unet that predicts noise.")


# ── diffusers' classes ──────────────────────────────────────────────────────────────────────────────────────────


def _computing(module: nn.Module) -> dict[str, Any]:
    """The settings that decide what a module computes of its weights, and its class."""
    plain: Any = plain_module(module)
    kind = next((kind for kind, name in _CLASSES.items() if name == type(plain).__name__), None)
    if kind is None:
        return {"class": type(plain).__name__}
    without = {"dropout"} | (
        {"norm_num_groups"} if kind == "dit" else set()
    )  # a DiT takes the number and has no groups
    keys = (
        {*_arguments(kind)} | {"in_channels", "out_channels"} | ({"sample_size"} if kind == "dit" else set())
    ) - without
    found = {key: plain.config[key] for key in keys if key in plain.config}
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return {"class": type(plain).__name__, FREQUENCIES: "diffusers", **found}


def _denoiser_folder(path: str | Path) -> Path:
    """Where config.json and weights of the noise predictor lie."""
    folder = local_folder(path)
    for inner in ("", "transformer", "unet"):
        if (folder / inner / "config.json").is_file():
            check_folder(folder / inner)
            return folder / inner
    raise CheckpointError(
        f"{folder} is not a folder of diffusers: neither it nor transformer or unet in it has a config.json."
    )


def _architecture(folder: Path) -> tuple[str, dict[str, Any]]:
    """Kind and settings in a folder's configuration, without sizes and classes."""
    config = read_object(folder / "config.json")
    name = config.get("_class_name")
    if name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
        name = _CLASSES["dit"]  # what the class was called when DiT was published for diffusers
    kind = next((kind for kind, known in _CLASSES.items() if known == name), None)
    if kind is None:
        raise CheckpointError(
            f"{folder / 'config.json'} is {_owner_of(config)}; known noise predictors are "
            f"{' and '.join(_CLASSES.values())}."
        )
    known = _arguments(kind)
    settings = {key: value for key, value in config.items() if key in known}
    outputs, inputs = config.get("out_channels"), config.get("in_channels")
    return kind, settings | {"learned_variance": bool(outputs and inputs and outputs == 2 * inputs)}


def _owner_of(config: Mapping[str, Any]) -> str:
    """Whose configuration it is, in words: diffusers notes the class, transformers the classes and the kind."""
    if "_class_name" in config:
        return f"of a {config['_class_name']}"
    classes = config.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else config.get("model_type")
    return "of no model of diffusers" if name is None else f"of a {name}, a model of transformers"


_Size = Annotated[int, Interval(ge=1, le=8192)]
_Depth = Annotated[int, Interval(ge=1, le=256)]
_BOUNDED: dict[str, Any] = {
    "attention_head_dim": _Size | None,
    "attn_norm_num_groups": _Size | None,
    "block_out_channels": tuple[_Size, ...],
    "downsample_padding": Annotated[int, Interval(ge=0, le=16)],
    "dropout": Annotated[float, Interval(ge=0, le=1)],
    "layers_per_block": _Depth,
    "norm_eps": Annotated[float, Ge(0)],
    "norm_num_groups": _Size,
    "num_attention_heads": _Depth,
    "num_layers": _Depth,
    "num_train_timesteps": Annotated[int, Interval(ge=1, le=100_000)] | None,
    "patch_size": _Depth,
    "time_embedding_dim": _Size | None,
}
"""What an argument may be where its class says less. The bounds are several times those of the largest published
models (DiT-XL/2: 28 layers, width 1152); they keep a typing error from asking for a terabyte."""


def _arguments(kind: str) -> dict[str, Setting]:
    """The settings that a kind takes: those of its class, but for what follows from the data, and our own."""
    import diffusers

    taken = arguments_of(getattr(diffusers, _CLASSES[kind]).__init__)
    known = {name: Setting(name, _BOUNDED.get(name, each.hint)) for name, each in taken.items() if name not in _OURS}
    known["learned_variance"] = Setting("learned_variance", bool)
    if kind == "dit":
        known[FREQUENCIES] = Setting(FREQUENCIES, Literal["original", "diffusers"])
    return known


def _checked(name: str, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the right type and size; lists, as files have them, as the tuples of the classes."""
    for option in options:
        if option in _OURS:
            raise SettingError(f"{name}: {option} follows from num_classes, in_channels and image_size: leave it out.")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return read_arguments(name, _arguments(kind), given)


def _check_size(name: str, kind: str, settings: Mapping[str, Any], size: int) -> None:
    """Whether an image can be halved as often as a UNet does, or cut into a DiT's patches."""
    multiple = settings.get("patch_size", 2) if kind == "dit" else 2 ** (len(settings["block_out_channels"]) - 1)
    if size % multiple:
        raise SettingError(f"{name} needs a height and width that are a multiple of {multiple}, not {size}.")


def _built(name: str, kind: str, settings: dict[str, Any], classes: int, channels: int, size: int) -> nn.Module:
    import diffusers

    frequencies = settings.pop(FREQUENCIES, "diffusers")
    outputs = 2 * channels if settings.pop("learned_variance", False) else channels
    counted = {"num_class_embeds": classes + 1} if kind == "unet" else {"num_embeds_ada_norm": classes}
    try:
        made = getattr(diffusers, _CLASSES[kind])(
            sample_size=size, in_channels=channels, out_channels=outputs, **counted, **settings
        )
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise SettingError(f"{name}: {_CLASSES[kind]} cannot be built with {given}: {error}") from error
    return _with_frequencies(made, frequencies).train()


def _with_frequencies(module: Any, frequencies: str) -> Any:
    """The module with the timesteps' sinusoids of the original DiT, where it is told so; its configuration says it."""
    if frequencies not in ("original", "diffusers"):
        raise SettingError(f"{FREQUENCIES} must be 'original' or 'diffusers', not {frequencies!r}.")
    if frequencies == "original":
        for embedding in _time_embeddings(module):
            embedding.downscale_freq_shift = 0
        module.register_to_config(**{FREQUENCIES: frequencies})
    return module


def _time_embeddings(module: nn.Module) -> list[Any]:
    return [block.norm1.emb.time_proj for block in getattr(plain_module(module), "transformer_blocks", [])]


# ── the original DiT's weights ──────────────────────────────────────────────────────────────────────────────────

_ONCE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_IN_A_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_IN_EVERY_BLOCK = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}


def dit_copies(module: nn.Module) -> list[tuple[str, ...]]:
    """Names of the parameters of a DiT of diffusers that are one weight in the original, a group for each.

    These are the embeddings of timestep and class, of which every block has a copy here. Of another module there is
    none.
    """
    plain = plain_module(module)
    if type(plain).__name__ != _CLASSES["dit"]:
        return []
    held = {name for name, _ in plain.named_parameters()}
    prefix = "" if plain is module else "_orig_mod."
    blocks = len(_time_embeddings(plain))
    groups = (_places(f"{stem}.{leaf}", blocks) for stem in _IN_EVERY_BLOCK for leaf in ("weight", "bias"))
    return [tuple(prefix + name for name in group) for group in groups if held.issuperset(group)]


def is_dit_layout(state: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of the original DiT (facebookresearch/DiT), which `from_dit` translates."""
    return {"x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "final_layer.linear.weight"} <= set(state)


def from_dit(state: Mapping[str, Tensor], module: nn.Module | None = None) -> State:
    """Weights of the original DiT under the names of diffusers' DiTTransformer2DModel.

    Queries, keys and values are one matrix there, [3 D, D]; the embeddings of timestep and class, which all blocks
    share there, go into every block. The table of positions is no weight: diffusers computes it.

    Args:
        state: of a DiT, as its authors save it.
        module: the model that is to take them. If given, it is checked for what names and shapes do not show: the
            size of its images, and the sinusoids that encode timesteps.

    Raises:
        CheckpointError: names entries that a DiT does not have, or what of the module does not fit.
    """
    blocks = 1 + max((int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    mapped: State = {}
    strange = []
    for name, tensor in state.items():
        places = _places(name, blocks)
        if not places and name != "pos_embed":
            strange.append(name)
        for place, part in zip(places, tensor.chunk(3) if ".attn.qkv." in name else [tensor] * blocks):
            mapped[place] = part
    if strange:
        raise CheckpointError(f"these are not the weights of a DiT: it has no {', '.join(strange[:8])}.")
    if module is not None:
        _check_fits(state, module)
    return mapped


def to_dit(module: nn.Module) -> State:
    """Weights of a DiTTransformer2DModel under the names of the original DiT: the way back from `from_dit`.

    Args:
        module: a DiT of diffusers. One with diffusers' sinusoids of timesteps loses nothing: the original's code has
            its own, and they are no weights.

    Returns:
        What the original's `load_state_dict` takes, its table of positions included; [D] or [D, D'] each.

    Raises:
        ModelError: if the module is none, or has other parts than the original (another patch size, normalisation
            with weights).
        CheckpointError: if the blocks' embeddings of timestep or class differ: the original has one of each.
    """
    plain: Any = plain_module(module)
    if type(plain).__name__ != _CLASSES["dit"]:
        raise ModelError(f"{type(plain).__name__} is no {_CLASSES['dit']}: only such a model has the original's parts.")
    left = {name: tensor.detach() for name, tensor in plain.state_dict().items() if name != "pos_embed.pos_embed"}
    blocks, made = len(plain.transformer_blocks), State()
    for name in _original_names(blocks):
        places = _places(name, blocks)
        if not set(places) <= set(left):
            raise ModelError(f"the model has no {places[0]}, which becomes {name} of the original DiT.")
        parts = [left.pop(place) for place in places]
        if ".attn.qkv." in name:
            made[name] = torch.cat(parts)
            continue
        if not all(torch.equal(part, parts[0]) for part in parts):
            raise CheckpointError(
                f"{places[0]} differs between blocks: this model was trained with a copy in each, and the original DiT "
                f"has one {name}. Only weights that came from the original's layout go back to it."
            )
        made[name] = parts[0].clone()
    if left:
        raise ModelError(f"the original DiT has no place for {', '.join(list(left)[:8])}.")
    return made | {"pos_embed": plain.pos_embed.pos_embed.detach().cpu().reshape(1, -1, plain.inner_dim).clone()}


def save_dit(module: nn.Module, path: str | Path) -> None:
    """Writes a DiT's weights for the original's code: a torch file of its `state_dict`, whole or not at all.

    Errors as of `to_dit`.
    """
    state = {name: tensor.cpu() for name, tensor in to_dit(module).items()}
    with open_atomic(path) as file:
        torch.save(state, file)


def _original_names(blocks: int) -> Iterator[str]:
    """Names of all weights of an original DiT of so many blocks, but for its table of positions."""
    inner = ("attn.qkv", *_IN_A_BLOCK)
    for stem in (*_ONCE, *_IN_EVERY_BLOCK, *(f"blocks.{block}.{part}" for block in range(blocks) for part in inner)):
        yield f"{stem}.weight"
        if stem != "y_embedder.embedding_table":
            yield f"{stem}.bias"


def _places(name: str, blocks: int) -> list[str]:
    """Where an entry of the original goes; none where it goes nowhere."""
    stem, _, leaf = name.rpartition(".")
    if stem in _ONCE:
        return [f"{_ONCE[stem]}.{leaf}"]
    if stem in _IN_EVERY_BLOCK:
        return [f"transformer_blocks.{block}.{_IN_EVERY_BLOCK[stem]}.{leaf}" for block in range(blocks)]
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
    if found is None:
        return []
    start = f"transformer_blocks.{found[1]}."
    if found[2] == "attn.qkv":
        return [f"{start}attn1.to_{part}.{leaf}" for part in "qkv"]
    return [f"{start}{_IN_A_BLOCK[found[2]]}.{leaf}"] if found[2] in _IN_A_BLOCK else []


def _check_fits(state: Mapping[str, Tensor], module: nn.Module) -> None:
    if any(embedding.downscale_freq_shift != 0 for embedding in _time_embeddings(module)):
        raise CheckpointError(
            "weights of the original DiT expect its own sinusoids of timesteps, and the model has those of diffusers: "
            f"build it as dit-xl-2 (dit-l-2, …), or with {FREQUENCIES}: original."
        )
    table: Any = getattr(getattr(plain_module(module), "pos_embed", None), "pos_embed", None)
    if "pos_embed" not in state or table is None:
        return
    theirs, own = state["pos_embed"].squeeze(0), table.squeeze(0).cpu()
    if theirs.shape != own.shape:
        raise CheckpointError(
            f"the weights are of a DiT that sees {len(theirs)} patches, and the model sees {len(own)}: build it for "
            f"images {round(len(theirs) ** 0.5)} patches high and wide."
        )
    if not torch.allclose(theirs.to(own.dtype), own, atol=1e-4):  # tables in float32 and half precision differ less
        raise CheckpointError("the weights' table of positions is not the fixed one of DiT: it was trained or changed.")
