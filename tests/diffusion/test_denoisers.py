import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.original_dit import OriginalDiT
from untrain.diffusion.denoisers import (
    DENOISERS,
    build_denoiser,
    denoiser_of,
    dit_copies,
    fresh_denoiser,
    from_dit,
    is_dit_layout,
    load_denoiser,
    load_weights,
    save_dit,
    to_dit,
)
from untrain.diffusion.folders import local_folder
from untrain.errors import CheckpointError, ModelError, SettingError, UnknownName
from untrain.models.checkpoints import load_into, load_state
from untrain.models.subject import Subject
from untrain.tasks.class_diffusion.embeddings import embedded_classes
from untrain.tasks.class_diffusion.task import ClassDiffusion

NAMES = [name for name, entry in DENOISERS.items() if entry.kind is not None]
UNET = {"block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8}
DIT = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def output(model: Any, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size, channels, dtype = model.config.sample_size, model.config.in_channels, next(model.parameters()).dtype
    x = torch.randn(3, channels, size, size, generator=generator, dtype=dtype)
    with torch.no_grad():
        return model.eval()(x, torch.tensor([0, 3, 999]), class_labels=torch.tensor([0, 2, 4])).sample


# ── by name ──


def test_the_cifar_unet_is_the_one_of_ho_et_al() -> None:
    with torch.device("meta"):
        model = build_denoiser("ddpm-cifar10", num_classes=10)
    classes = model.get_submodule("class_embedding")
    assert count(model) - count(classes) == 35_746_307  # 35.7 million in Ho et al. 2020, appendix B
    assert embedded_classes(model) == 11
    heads = [module.heads for module in model.modules() if type(module).__name__ == "Attention"]
    assert heads == [1] * 6  # two going down at 16×16, one in the middle, three going up
    dropouts = {module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p}
    assert dropouts == {0.1}


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Peebles, Xie 2023, table 4, in millions
    [("dit-s-2", 33), ("dit-b-2", 130), ("dit-l-2", 458), ("dit-xl-2", 675)],
)
def test_the_sizes_of_dit_are_the_published_ones(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model: Any = build_denoiser(name, num_classes=1000, in_channels=4, image_size=32)
        original = OriginalDiT(
            depth=model.config.num_layers,
            width=model.inner_dim,
            heads=model.config.num_attention_heads,
            size=32,
            classes=1000,
        )
    assert abs(count(original) / 1e6 - parameters) < 1
    assert model.config.out_channels == 8 and embedded_classes(model) == 1001
    mapped = {key: tensor.shape for key, tensor in from_dit(original.state_dict()).items()}
    assert mapped == {key: tensor.shape for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("name", "options"), [("unet-small", UNET), ("dit-tiny", DIT), ("dit-s-2", DIT)])
def test_weights_come_from_the_seed_alone(name: str, options: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    sizes = {"num_classes": 5, "in_channels": 1, "image_size": 8}
    first, again, other = (build_denoiser(name, seed=seed, **sizes, **options) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.training and same(first, again) and not same(first, other)
    assert output(first).shape == (3, 2 if name == "dit-s-2" else 1, 8, 8)
    assert embedded_classes(first) == 6


@pytest.mark.parametrize(("name", "options"), [("unet-small", UNET), ("dit-tiny", DIT)])
def test_every_named_model_fits_the_task(name: str, options: dict[str, Any]) -> None:
    for learned in (False, True):
        model = build_denoiser(name, num_classes=5, in_channels=1, image_size=8, learned_variance=learned, **options)
        batch = {"input": torch.zeros(2, 1, 8, 8), "label": torch.tensor([0, 4])}
        drawn = ClassDiffusion().draw(batch, torch.Generator(), "evaluate")
        task = ClassDiffusion().prepare(model, drawn)
        assert (task.num_classes, task.null_class, task.learned_variance) == (5, 5, learned)


def test_unknown_names_and_options() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'dit-xl2'. Did you mean 'dit-xl-2'\? Known: .*ddpm-cifar10"):
        build_denoiser("dit-xl2", num_classes=10)
    with pytest.raises(UnknownName, match="unknown module 'other' of other:thing.* by name: .*diffusers:PATH_OR_ID"):
        build_denoiser("other:thing", num_classes=10)
    with pytest.raises(SettingError, match=r"dit-tiny: unknown option 'num_layer'. Did you mean 'num_layers'\?"):
        build_denoiser("dit-tiny", num_classes=10, num_layer=3)
    with pytest.raises(SettingError, match="unet-small: unknown option 'timestep_frequencies'"):
        build_denoiser("unet-small", num_classes=10, timestep_frequencies="original")
    with pytest.raises(SettingError, match="sample_size follows from num_classes, in_channels and image_size"):
        build_denoiser("unet-small", num_classes=10, sample_size=8)
    with pytest.raises(SettingError, match="must be 'original' or 'diffusers', not 'other'"):
        build_denoiser("dit-tiny", num_classes=10, image_size=8, timestep_frequencies="other", **DIT)
    with pytest.raises(SettingError, match="num_classes, in_channels and image_size ≥ 1, not 0, 3 and 32"):
        build_denoiser("unet-small", num_classes=0)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(SettingError, match="unet-small: UNet2DModel cannot be built with .*norm_num_groups=5"):
        build_denoiser("unet-small", num_classes=10, norm_num_groups=5)
    with pytest.raises(SettingError, match="down_block_types"):
        build_denoiser("unet-small", num_classes=10, block_out_channels=(8, 16, 32))


@pytest.mark.parametrize(
    ("name", "size", "options", "multiple"),
    [
        ("unet-small", 9, {}, 2),
        ("ddpm-cifar10", 28, {}, 8),
        ("dit-tiny", 7, {}, 2),
        ("dit-tiny", 30, {"patch_size": 4}, 4),
    ],
)
def test_sizes_that_do_not_fit(name: str, size: int, options: dict[str, Any], multiple: int) -> None:
    with pytest.raises(SettingError, match=f"{name} needs a height and width that are a multiple of {multiple}, not"):
        build_denoiser(name, num_classes=10, image_size=size, **options)


def test_every_model_describes_itself() -> None:
    assert {"unet-small", "ddpm-cifar10", "dit-tiny", "dit-s-2", "dit-b-2", "dit-l-2", "dit-xl-2"} == set(NAMES)
    assert all(entry.description and "\n" not in entry.description for entry in DENOISERS.values())


# ── new weights ──


@pytest.mark.parametrize(("name", "options"), [("unet-small", UNET), ("dit-tiny", DIT), ("dit-s-2", DIT)])
def test_a_fresh_model_is_what_building_it_gives(name: str, options: dict[str, Any]) -> None:
    sizes = {"num_classes": 5, "in_channels": 1, "image_size": 8}
    model = build_denoiser(name, seed=1, **sizes, **options)
    fresh = Subject(model, init=lambda: fresh_denoiser(model)).fresh(2)
    built = build_denoiser(name, seed=2, **sizes, **options)
    assert same(fresh, built) and fresh.training
    torch.testing.assert_close(output(fresh), output(built))
    assert next(fresh_denoiser(model.double()).parameters()).dtype == torch.float64


def test_a_module_that_is_not_of_diffusers_cannot_be_renewed() -> None:
    with pytest.raises(ModelError, match="Linear is not a model of diffusers: pass init="):
        fresh_denoiser(nn.Linear(2, 2))


# ── folders of diffusers ──


@pytest.mark.parametrize(("name", "options"), [("unet-small", UNET), ("dit-tiny", DIT), ("dit-s-2", DIT)])
def test_saved_models_come_back(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model: Any = build_denoiser(name, num_classes=5, in_channels=2, image_size=8, seed=1, **options)
    model.save_pretrained(tmp_path)
    loaded = load_denoiser(tmp_path)
    assert loaded.training and same(loaded, model)
    torch.testing.assert_close(output(loaded), output(model))


@pytest.mark.parametrize(("name", "options"), [("unet-small", UNET), ("dit-tiny", DIT), ("dit-s-2", DIT)])
def test_the_architecture_of_a_folder_fits_other_data(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model: Any = build_denoiser(name, num_classes=5, in_channels=2, image_size=8, seed=1, **options)
    model.save_pretrained(tmp_path)
    again = build_denoiser(f"diffusers:{tmp_path}", num_classes=5, in_channels=2, image_size=8, seed=1)
    assert same(again, model)
    torch.testing.assert_close(output(again), output(model))
    other: Any = build_denoiser(f"diffusers:{tmp_path}", num_classes=9, in_channels=3, image_size=16, dropout=0.5)
    assert embedded_classes(other) == 10 and output(other).shape == (3, 6 if name == "dit-s-2" else 3, 16, 16)
    assert other.config.dropout == 0.5


def test_the_class_that_dit_had_before_is_known(tmp_path: Path) -> None:
    model: Any = build_denoiser("dit-tiny", num_classes=5, in_channels=2, image_size=8, **DIT)
    model.save_pretrained(tmp_path / "transformer")
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    old = config | {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "num_vector_embeds": None}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(old))
    assert same(load_denoiser(tmp_path), model)
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(old | {"norm_type": "layer_norm"}))
    with pytest.raises(CheckpointError, match="is of a Transformer2DModel; known noise predictors are UNet2DModel and"):
        load_denoiser(tmp_path)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist. Give a folder that diffusers saved, or a hub id"):
        load_denoiser(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not a folder of diffusers"):
        load_denoiser(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        load_denoiser(tmp_path / "file")
    model: Any = build_denoiser("dit-tiny", num_classes=5, in_channels=2, image_size=8, **DIT)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 4}))
    with pytest.raises(CheckpointError, match="made for another configuration than beside them.*transformer_blocks.3"):
        load_denoiser(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_denoiser(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize(("name", "options"), [("unet-small", UNET), ("dit-tiny", DIT), ("dit-s-2", DIT)])
def test_weights_of_a_folder_go_into_the_same_architecture(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"num_classes": 5, "in_channels": 2, "image_size": 8}
    model: Any = build_denoiser(name, seed=1, **sizes, **options)
    model.save_pretrained(tmp_path)
    other = build_denoiser(name, seed=2, dropout=0.5, **sizes, **options)
    load_weights(other, tmp_path)
    assert same(other, model)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "dit-tiny",
            {"num_attention_heads": 4, "attention_head_dim": 4},
            r"num_attention_heads \(2, the model has 4\)",
        ),
        ("dit-tiny", {"timestep_frequencies": "original"}, r"timestep_frequencies \('diffusers', the model has 'orig"),
        ("dit-tiny", {"image_size": 16}, r"sample_size \(8, the model has 16\)"),
        ("unet-small", UNET, r"class \('DiTTransformer2DModel', the model has 'UNet2DModel'\)"),
    ],
)
def test_the_same_shapes_can_be_another_architecture(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved: Any = build_denoiser("dit-tiny", num_classes=5, in_channels=2, image_size=8, **DIT)
    saved.save_pretrained(tmp_path)
    settings = (DIT if name == "dit-tiny" else {}) | options
    model = build_denoiser(name, **{"num_classes": 5, "in_channels": 2, "image_size": 8, "seed": 1} | settings)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"made for another architecture. .*{message}"):
        load_weights(model, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_the_hub_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines, hub = tmp_path / "pipelines", tmp_path / "hub"
    for name, entry in (("pipeline", ["diffusers", "UNet2DModel"]), ("code", ["their_unet", "Net"]), ("model", None)):
        (hub / "someone" / name).mkdir(parents=True)
        if entry is not None:
            index = {"_class_name": "DDPMPipeline", "unet": entry}
            (hub / "someone" / name / "model_index.json").write_text(json.dumps(index))

    def download(name: str, trust_remote_code: bool) -> str:
        assert name == "someone/pipeline", "only what is known to bring no code"
        assert not trust_remote_code
        return str(pipelines / name)

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith(".py") or pattern in ("*", "*.*") for pattern in allow_patterns)
        if name == "someone/gone":
            raise OSError("no such repository")
        return str(hub / name)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert local_folder("someone/pipeline") == pipelines / "someone/pipeline"
    assert local_folder("someone/model") == hub / "someone/model"
    with pytest.raises(CheckpointError, match="unet is .*their_unet"):
        local_folder("someone/code")
    with pytest.raises(
        CheckpointError, match="someone/gone is neither a folder nor something that the hub gives: no su"
    ):
        local_folder("someone/gone")


def test_a_pipeline_without_a_noise_predictor() -> None:
    with pytest.raises(CheckpointError, match="Linear holds neither a transformer nor a unet"):
        denoiser_of(nn.Linear(2, 2))


# ── weights of the original DiT ──


@pytest.fixture
def original() -> OriginalDiT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return OriginalDiT(depth=3, width=16, heads=2, size=8, classes=5).double()


def twin(**options: Any) -> Any:
    return build_denoiser("dit-s-2", num_classes=5, in_channels=4, image_size=8, **DIT, **options)


def both(original: OriginalDiT, model: Any) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t, y = torch.tensor([0, 1, 500, 999]), torch.tensor([0, 3, 4, 5])
    with torch.no_grad():
        return original(x, t, y), model.double().eval()(x, t, class_labels=y).sample


def test_weights_of_the_original_dit_compute_the_same(original: OriginalDiT, tmp_path: Path) -> None:
    torch.save({"ema": original.state_dict()}, tmp_path / "DiT.pt")
    state, _ = load_state(tmp_path / "DiT.pt")
    assert is_dit_layout(state)
    model = twin()
    load_into(model.double(), from_dit(state, model))
    theirs, ours = both(original, model)
    # float64; only the order of sums differs
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    assert theirs.std() > 0.1


def test_the_sinusoids_of_diffusers_are_not_those_of_the_original_dit(original: OriginalDiT) -> None:
    """Or the option would be there for nothing, and the error below."""
    model = twin(timestep_frequencies="diffusers")
    load_into(model.double(), from_dit(original.state_dict()))
    theirs, ours = both(original, model)
    assert (ours[0] - theirs[0]).abs().max() < 1e-9  # at t = 0 there is no difference
    assert (ours[1:] - theirs[1:]).abs().max() > 1e-3
    with pytest.raises(CheckpointError, match="expect its own sinusoids.*timestep_frequencies: original"):
        from_dit(original.state_dict(), model)


def test_a_layout_is_told_by_its_names(original: OriginalDiT) -> None:
    assert is_dit_layout(original.state_dict())
    assert not is_dit_layout(twin().state_dict()) and not is_dit_layout({})


def test_weights_that_do_not_fit(original: OriginalDiT) -> None:
    state = original.state_dict()
    with pytest.raises(CheckpointError, match="sees 16 patches, and the model sees 4: build it for images 4 patches"):
        from_dit(state, build_denoiser("dit-s-2", num_classes=5, in_channels=4, image_size=4, **DIT))
    with pytest.raises(CheckpointError, match="not the fixed one of DiT"):
        from_dit(state | {"pos_embed": state["pos_embed"].flip(1)}, twin())
    extra = {"blocks.0.attn.q_norm.weight": torch.ones(8), "head.bias": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"it has no blocks.0.attn.q_norm.weight, head.bias"):
        from_dit(state | extra)
    missing = {name: tensor for name, tensor in state.items() if name != "blocks.1.mlp.fc1.bias"}
    with pytest.raises(CheckpointError, match=r"missing: transformer_blocks.1.ff.net.0.proj.bias\."):
        load_into(twin(), from_dit(missing))
    fewer = build_denoiser("dit-s-2", num_classes=4, in_channels=4, image_size=8, **DIT)
    with pytest.raises(CheckpointError, match=r"embedding_table.weight \(\[6, 16\], the model has \[5, 16\]\)"):
        load_into(fewer, from_dit(state, fewer))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("unet-small", "block_out_channels", [8, 10**9]),
        ("unet-small", "block_out_channels", [0, 8]),
        ("unet-small", "block_out_channels", 8),
        ("unet-small", "layers_per_block", 10**9),
        ("unet-small", "dropout", 2),
        ("unet-small", "down_block_types", [1, 2]),
        ("unet-small", "add_attention", "yes"),
        ("unet-small", "trust_remote_code", True),
        ("dit-tiny", "num_layers", -1),
        ("dit-tiny", "num_layers", True),
        ("dit-tiny", "num_layers", 10**9),
        ("dit-tiny", "attention_head_dim", 10**9),
        ("dit-tiny", "patch_size", 0),
        ("dit-tiny", "learned_variance", "no"),
    ],
)
def test_an_option_that_is_none_never_reaches_its_class(
    name: str, option: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_layer(*_: Any, **__: Any) -> None:
        raise AssertionError("a layer was made")

    for kind in (nn.Linear, nn.Conv2d):
        monkeypatch.setattr(kind, "__init__", no_layer)
    with pytest.raises(SettingError, match=f"{name}: .*{option}"):
        build_denoiser(name, num_classes=2, image_size=8, **{option: value})


def test_the_way_back_to_the_layout_of_the_original(original: OriginalDiT, tmp_path: Path) -> None:
    model = twin()
    load_into(model, from_dit({name: tensor.float() for name, tensor in original.state_dict().items()}, model))
    save_dit(model, tmp_path / "DiT.pt")
    back = torch.load(tmp_path / "DiT.pt", weights_only=True)
    fresh = OriginalDiT(depth=3, width=16, heads=2, size=8, classes=5)
    fresh.load_state_dict(back)
    assert all(torch.equal(value.float(), fresh.state_dict()[name]) for name, value in original.state_dict().items())
    assert load_state(tmp_path / "DiT.pt")[0].keys() == back.keys()


def test_what_cannot_go_back_to_the_original() -> None:
    with pytest.raises(CheckpointError, match="differs between blocks.*t_embedder"):
        to_dit(twin())
    with pytest.raises(ModelError, match="UNet2DModel is no DiTTransformer2DModel"):
        to_dit(build_denoiser("unet-small", num_classes=5, in_channels=1, image_size=8, **UNET))


def test_the_copies_of_a_dit_are_its_embeddings_of_timestep_and_class() -> None:
    groups = dit_copies(twin())
    assert len(groups) == 5 and all(len(group) == 3 for group in groups)
    assert all(".norm1.emb." in name for group in groups for name in group)
    assert dit_copies(nn.Linear(2, 2)) == []
