import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.foreign_code import MARK, change, plant
from untrain.errors import CheckpointError, ModelError, SettingError, UnknownName, UntrainError
from untrain.models.classifiers import MODELS, build
from untrain.models.subject import Subject

NAMES = [name for name, kind in MODELS.items() if kind.build is not None]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


# ── networks by name ──


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("small-cnn", 1, 93_546),
        ("resnet20", 3, 269_722),  # 0.27 million in He et al. 2016, table 6
        ("resnet18", 3, 11_173_962),
        ("resnet34", 3, 21_282_122),
        ("resnet50", 3, 23_520_842),
        ("resnet101", 3, 42_512_970),
        ("resnet152", 3, 58_156_618),
    ],
)
def test_sizes_are_the_published_ones(name: str, channels: int, parameters: int) -> None:
    assert count(build(name, num_classes=10, in_channels=channels)) == parameters


def test_an_image_halved_before_relu_gives_what_it_gives_after() -> None:
    model = build("small-cnn", num_classes=4, in_channels=1, width=4)
    layers = dict(model.named_children())
    usual = [*(f"{layer}{k}" for k in (1, 2) for layer in ("conv", "bn", "relu", "pool")), *list(layers)[8:]]
    assert sorted(usual) == sorted(layers) != usual
    x = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    found = []
    for network in (model, nn.Sequential(*(layers[name] for name in usual))):
        network.zero_grad()
        logits = network(x)
        logits.logsumexp(1).sum().backward()
        found.append([logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_images_of_every_embedded_size_go_through(name: str, channels: int, size: int) -> None:
    model = build(name, num_classes=7, in_channels=channels, image_size=size, width=4)
    logits = model(torch.rand(2, channels, size, size))
    assert logits.shape == (2, 7) and bool(torch.isfinite(logits).all())
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_computes_the_same(name: str) -> None:
    model = build(name, num_classes=5, width=4).double().eval()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    plain = model(x)
    fast = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)  # float64; only the order of sums differs


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(name, num_classes=5, seed=seed, width=4) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_model_has_the_same_distribution(name: str) -> None:
    """`reset_parameters` on every layer draws as `build` does, or a retrained model would start elsewhere."""
    built = build(name, num_classes=5, seed=0, width=16)
    fresh = Subject(built).fresh(seed=1)
    for (key, a), b in zip(built.state_dict().items(), fresh.state_dict().values(), strict=True):
        if a.dim() > 1 and a.numel() > 2000:
            assert not torch.equal(a, b)
            # Standard deviations of 2,000 uniform draws differ by less than 4 × 1 %.
            assert abs(float(b.std() / a.std()) - 1) < 0.04, key


def test_the_padded_shortcut_keeps_every_second_pixel() -> None:
    model = build("resnet20", num_classes=2, width=4)
    shortcut = model.get_submodule("layer2.0.downsample")
    x = torch.rand(1, 4, 6, 6)
    y = shortcut(x)
    assert y.shape == (1, 8, 3, 3) and torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any() and count(shortcut) == 0


def test_names_of_layers_are_the_usual_ones() -> None:
    """Checkpoints of the CIFAR ResNets that follow torchvision's names fit."""
    names = set(build("resnet18", num_classes=10, width=4).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer2.0.downsample.1.bias",
        "layer4.1.conv2.weight",
        "fc.bias",
    } <= names


def test_unknown_models_and_options() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'resnet19'. Did you mean 'resnet18'\? Known: MODULE:FACTORY"):
        build("resnet19", num_classes=10)
    with pytest.raises(SettingError, match=r"resnet20: unknown option 'depth'.* Known: width"):
        build("resnet20", num_classes=10, depth=3)
    with pytest.raises(SettingError, match="num_classes ≥ 1"):
        build("resnet20", num_classes=0)
    with pytest.raises(SettingError, match="small-cnn needs images of at least 4 pixels, not 3"):
        build("small-cnn", num_classes=10, image_size=3)


def test_every_model_describes_itself() -> None:
    assert {"small-cnn", *(f"resnet{depth}" for depth in (18, 20, 34, 50, 101, 152))} == set(NAMES)
    assert all(kind.description and "\n" not in kind.description for kind in MODELS.values())


# ── transformers ──


@pytest.fixture(params=["vit", "swin"])
def config_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    from transformers import SwinConfig, ViTConfig

    if request.param == "vit":
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config: Any = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=5, **size)
    else:
        size = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
        config = SwinConfig(image_size=8, patch_size=2, num_channels=1, num_labels=5, **size)
    config.save_pretrained(tmp_path)
    return tmp_path


def test_a_configuration_gives_new_weights(config_folder: Path) -> None:
    name = f"hf-config:{config_folder}"
    before = torch.get_rng_state()
    first, again, other = (build(name, num_classes=10, in_channels=3, image_size=16, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.training and first(torch.rand(2, 3, 16, 16)).logits.shape == (2, 10)
    assert same(first, again) and not same(first, other)


def test_stored_weights_are_loaded(config_folder: Path) -> None:
    original = build(f"hf-config:{config_folder}", num_classes=10, in_channels=1, seed=3)
    original.save_pretrained(config_folder)  # type: ignore[operator]
    assert same(build(f"hf:{config_folder}", num_classes=10, in_channels=1), original)
    other = build(f"hf:{config_folder}", num_classes=4, in_channels=1)
    differing = [key for key, value in other.state_dict().items() if value.shape != original.state_dict()[key].shape]
    assert sorted(differing) == ["classifier.bias", "classifier.weight"]
    kept = [key for key in other.state_dict() if not key.startswith("classifier")]
    assert all(torch.equal(other.state_dict()[key], original.state_dict()[key]) for key in kept)
    with pytest.raises(ModelError, match="takes images of 1 channels; the data has 3"):
        build(f"hf:{config_folder}", num_classes=10, in_channels=3)


def test_configurations_that_cannot_be_used(config_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights: write hf-config:"):
        build(f"hf:{config_folder}", num_classes=5, in_channels=1)
    with pytest.raises(SettingError, match="unknown option 'depthz'"):
        build(f"hf-config:{config_folder}", num_classes=5, depthz=2)
    (config_folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        build(f"hf-config:{config_folder}", num_classes=5)


# ── the user's own ──


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_models.py").write_text(
        "import torch\n"
        "def make(num_classes, hidden=4):\n"
        "    layers = torch.nn.Linear(16, hidden), torch.nn.Linear(hidden, num_classes)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), *layers)\n"
        "def anything(**given):\n"
        "    model = torch.nn.Identity()\n"
        "    model.given = given\n"
        "    return model\n"
        "def fails(): raise KeyError('weights')\n"
        "def number(): return 3\n"
        "constant = 3\n"
        "class Zoo:\n"
        "    @staticmethod\n"
        "    def lion(): return torch.nn.Linear(2, 2)\n"
    )
    (tmp_path / "broken_models.py").write_text("1 / 0\n")
    (tmp_path / "hungry_models.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    for name in ("their_models", "broken_models", "hungry_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "their_models"


def test_a_model_of_the_users_own(own_module: str) -> None:
    model = build(f"{own_module}:make", num_classes=3, hidden=5)
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, 3) and model[1].out_features == 5  # type: ignore[index]
    assert same(build(f"{own_module}:make", num_classes=3, seed=7), build(f"{own_module}:make", num_classes=3, seed=7))
    given = build(f"{own_module}:anything", num_classes=3, in_channels=1, image_size=9, width=2).given
    assert given == {"num_classes": 3, "in_channels": 1, "image_size": 9, "width": 2}
    assert isinstance(build(f"{own_module}:Zoo.lion", num_classes=3), nn.Linear)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("no_such_module:make", {}, UnknownName, "unknown module 'no_such_module'.*Models known by name: small-cnn"),
        ("their_models:mak", {}, UnknownName, r"unknown attribute 'mak'. Did you mean 'make'\? Known: Zoo, anything"),
        ("their_models:Zoo.tiger", {}, UnknownName, "unknown attribute 'Zoo.tiger'"),
        ("their_models:make", {"deep": 1}, SettingError, "unknown option 'deep'"),
        ("their_models:constant", {}, ModelError, "is a int, not a function"),
        ("their_models:number", {}, ModelError, "must return a torch.nn.Module; it returned int"),
        ("their_models:fails", {}, ModelError, "their_models:fails failed with .*KeyError: 'weights'"),
        ("broken_models:make", {}, ModelError, "cannot be imported: ZeroDivisionError"),
        ("hungry_models:make", {}, ModelError, "cannot be imported: .*'a_library_that_is_not_there'"),
    ],
)
def test_models_of_the_users_own_that_cannot_be_built(
    own_module: str, name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(name, num_classes=3, **options)


# ── options, before a builder has them ──

VALUES = (-1, 0, 10**9, 10**30, 1.5, float("nan"), "x", "8", True, None, [8], {"a": 1})
"""None of them is a width; all of them came out of a YAML file once."""


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_is_none_never_reaches_a_builder(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_layer(*_: Any, **__: Any) -> None:
        raise AssertionError("a layer was made")

    monkeypatch.setattr(nn.Conv2d, "__init__", no_layer)
    with pytest.raises(SettingError, match=f"{name}: width must be a whole number from 1 to 512"):
        build(name, num_classes=2, width=value)


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    from transformers import ViTConfig

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=5, **size).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trust_remote_code", True),
        ("code_revision", "main"),
        ("revision", "main"),
        ("cache_dir", "/tmp"),
        ("token", "secret"),
        ("subfolder", "other"),
        ("auto_map", {"AutoConfig": "evil.Config"}),
        ("attn_implementation", "someone/kernel"),
        ("_attn_implementation", "someone/kernel"),
        ("_attn_implementation_internal", "someone/kernel"),
        ("quantization_config", {"quant_method": "fp8"}),
        ("model_type", "bert"),
        ("to_dict", 1),
        ("num_labels", 3),
        ("num_channels", 3),
        ("hidden_size", 10**9),
        ("hidden_size", "x"),
        ("hidden_size", True),
        ("patch_size", [4, 10**9]),
        ("patch_size", [[[10**9]]]),
        ("qkv_bias", "yes"),
        ("hidden_act", 3),
    ],
)
def test_options_of_transformers_are_fields_of_the_configuration(vit_folder: Path, option: str, value: Any) -> None:
    with pytest.raises((SettingError, CheckpointError), match=option):
        build(f"hf-config:{vit_folder}", num_classes=5, in_channels=1, **{option: value})


def test_options_of_transformers_are_applied(vit_folder: Path) -> None:
    options = {"hidden_size": 8, "hidden_dropout_prob": 0.5, "qkv_bias": False, "hidden_act": "relu"}
    made = build(f"hf-config:{vit_folder / 'config.json'}", num_classes=5, in_channels=1, image_size=8, **options)
    assert {name: getattr(made.config, name) for name in options} == options


# ── a folder's own code ──

NO_TYPE = {"model_type": "evil"}
AUTO = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}


@pytest.mark.parametrize("prefix", ["hf", "hf-config"])
@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}], ids=["plain", "trusting"])
@pytest.mark.parametrize(
    "entries",
    [
        {**NO_TYPE, "auto_map": AUTO},
        {"auto_map": {name: f"someone/repo--{value}" for name, value in AUTO.items()}},
        {"model_type": None, "auto_map": AUTO},
        {"attn_implementation": "kernels-community/flash-attn2"},
        {"_attn_implementation": "flash_attention_2"},
        {"experts_implementation": {"": "deepgemm"}},
        {"quantization_config": {"quant_method": "fbgemm_fp8"}},
        {"configuration_files": ["config.4.0.0.json"]},
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "x.pth"}},
        {"deep": [{"use_pretrained_backbone": True}]},
    ],
    ids=lambda entries: list(entries)[-1],
)
def test_nothing_of_a_folder_is_run(
    vit_folder: Path, entries: dict[str, Any], options: dict[str, Any], prefix: str
) -> None:
    build(f"hf-config:{vit_folder}", num_classes=5, in_channels=1).save_pretrained(vit_folder)  # type: ignore[operator]
    mark = plant(vit_folder / "evil.py")
    change(vit_folder / "config.json", **entries)
    before = set(sys.modules)
    if entries.get("auto_map") and "model_type" not in entries:  # a type of the library's own: its class is taken
        if options:
            with pytest.raises(SettingError, match="trust_remote_code"):
                build(f"{prefix}:{vit_folder}", num_classes=5, in_channels=1, **options)
        else:
            assert type(build(f"{prefix}:{vit_folder}", num_classes=5, in_channels=1)).__module__.startswith("transf")
    else:
        with pytest.raises(UntrainError, match=r"config\.json"):
            build(f"{prefix}:{vit_folder}", num_classes=5, in_channels=1, **options)
    assert not mark.exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name or "transformers_modules" in name]


def test_weights_that_run_code_are_not_unpickled(vit_folder: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return Path(vit_folder / MARK).touch, ()

    (vit_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}, 2))
    with pytest.raises(UntrainError):
        build(f"hf:{vit_folder}", num_classes=5, in_channels=1)
    torch.save({"weight": Evil()}, vit_folder / "pytorch_model.bin")
    with pytest.raises(UntrainError):
        build(f"hf:{vit_folder}", num_classes=5, in_channels=1)
    assert not (vit_folder / MARK).exists()


def test_what_the_hub_gives_comes_without_code(vit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        if name != "someone/vit":
            raise OSError("no such repository")
        return str(vit_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert build("hf-config:someone/vit", num_classes=5, in_channels=1)
    assert asked == ["config.json"]
    with pytest.raises(CheckpointError, match="holds no weights"):
        build("hf:someone/vit", num_classes=5, in_channels=1)
    assert not any(pattern.endswith(".py") or pattern.startswith("*") for pattern in asked)
    with pytest.raises(ModelError, match="someone/gone"):
        build("hf:someone/gone", num_classes=5)
