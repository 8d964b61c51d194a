import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from helpers.references import REFERENCE, fisher_of_batch_means, fisher_sample_by_sample
from untrain.errors import DataError, Diverged, EmptySet, InexactFisher, ModelError, SettingError
from untrain.fisher import Findings, fisher_diagonal, layers, samples
from untrain.fisher.fallback import Fallback
from untrain.fisher.samples import Probe
from untrain.models.copies import copy_module
from untrain.runs.dry_run import TensorMemory

CLASSES = 5


class CrossEntropy:
    """The smallest task: losses [B] of a classifier."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        output = model(batch["input"])
        return F.cross_entropy(getattr(output, "logits", output), batch["label"], reduction="none")


TASK = CrossEntropy()


def batches_of(inputs: Tensor, sizes: tuple[int, ...] = (5, 4)) -> list[dict[str, Tensor]]:
    label = torch.randint(CLASSES, (len(inputs),), generator=torch.Generator().manual_seed(1))
    return [{"input": x, "label": y} for x, y in zip(inputs.split(list(sizes)), label.split(list(sizes)), strict=True)]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64, its parameters drawn anew and its running statistics away from zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model


def inputs_of(*shape: int) -> Tensor:
    return torch.randn(9, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def assert_exact(model: nn.Module, batches: list[dict[str, Tensor]], rtol: float = 1e-10) -> dict[str, Tensor]:
    expected = fisher_sample_by_sample(model, TASK, batches)
    found = fisher_diagonal(model, TASK, batches)
    assert found.keys() == expected.keys()
    # A gradient that is zero in exact arithmetic (an attention's key bias) is rounding noise in both: its square is
    # below 1e-24 of the largest, and has no relative accuracy.
    noise = 1e-24 * max(float(value.max()) for value in expected.values())
    for name, value in expected.items():
        assert found[name].shape == value.shape
        # rtol of the tensor's largest entry: entries that cancel to nothing have no relative accuracy in either
        error = (found[name] - value).abs().max()
        assert error <= rtol * value.abs().max() + noise, (name, float(error))
    return found


@pytest.fixture
def no_fallback(monkeypatch):
    """Makes any use of the fallback a failure, so that a test knows which path it tested."""

    def refuse(self, parameters, batch):
        raise AssertionError(f"fallback for {sorted(parameters)}")

    monkeypatch.setattr(Fallback, "gradients", refuse)


@pytest.fixture
def fallback_names(monkeypatch):
    """Collects the names that the fallback is asked for."""
    names: set[str] = set()
    true = Fallback.gradients

    def spy(self, parameters, batch):
        names.update(parameters)
        return true(self, parameters, batch)

    monkeypatch.setattr(Fallback, "gradients", spy)
    return names


# --- layers ---------------------------------------------------------------------------------------------------------


def head(channels: int) -> nn.Module:
    return nn.Sequential(nn.Tanh(), nn.Flatten(2), Mean(2), nn.Linear(channels, CLASSES))


class Mean(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim)


CONVOLUTIONS = {
    "1d": (nn.Conv1d(3, 4, 3, padding=1), (3, 8)),
    "1d grouped, dilated": (nn.Conv1d(4, 6, 3, groups=2, dilation=2), (4, 9)),
    "2d": (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "2d strided, remainder": (nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), (3, 8, 7)),
    "2d uneven": (nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (2, 8, 7)),
    "2d depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 6, 6)),
    "2d pointwise": (nn.Conv2d(3, 5, 1), (3, 4, 4)),
    "2d same": (nn.Conv2d(3, 4, 4, padding="same"), (3, 6, 6)),
    "2d valid": (nn.Conv2d(3, 4, 2, padding="valid"), (3, 6, 6)),
    "2d reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 6)),
    "2d circular": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular", stride=2), (3, 6, 6)),
    "2d replicate": (nn.Conv2d(3, 4, 3, padding="same", padding_mode="replicate"), (3, 6, 6)),
    "3d": (nn.Conv3d(2, 3, 2, padding=1, stride=2), (2, 4, 5, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, no_fallback):
    layer, shape = CONVOLUTIONS[name]
    model = nn.Sequential(copy.deepcopy(layer), nn.Tanh(), nn.Flatten(2), Mean(2), nn.Linear(layer.out_channels, 5))
    assert_exact(randomised(model), batches_of(inputs_of(*shape)))


def test_convolution_channels_last_and_many_chunks(no_fallback, monkeypatch):
    monkeypatch.setitem(samples.CHUNK_BYTES, "cpu", 4000)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2), head(6))
    model = randomised(model).to(memory_format=torch.channels_last)
    assert_exact(model, batches_of(inputs_of(3, 6, 6).to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_linear(shape, no_fallback):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3, bias=False), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(1, *shape))
    assert_exact(randomised(model), batches_of(inputs_of(*shape)))


@pytest.mark.parametrize("tile", [1, 300])
def test_large_weights_in_tiles(tile, no_fallback, monkeypatch):
    calls = []
    true = layers._add_squared_products
    monkeypatch.setattr(layers, "TILE_BYTES", tile)
    monkeypatch.setattr(layers, "LARGE_BYTES", 0)
    monkeypatch.setattr(layers, "PATCH_BYTES", 2000)
    monkeypatch.setattr(layers, "_add_squared_products", lambda *args: calls.append(args) or true(*args))
    convolution = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), padding_mode="circular")
    for model, shape in (
        (nn.Sequential(convolution, head(4)), (3, 6, 5)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), head(4)), (3, 5, 4)),
        (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 7), Mean(1), nn.Linear(7, CLASSES)), (3, 4)),
    ):
        calls.clear()
        assert_exact(randomised(model), batches_of(inputs_of(*shape)))
        assert calls


def test_large_convolution_over_folded_windows(no_fallback, monkeypatch):
    monkeypatch.setattr(layers, "TILE_BYTES", 300)

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 3, 2), nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.conv(x.flatten(0, 1)).unflatten(0, (len(x), 3)))
            return self.linear(x.mean((1, 3, 4)))

    assert_exact(randomised(Windows()), batches_of(inputs_of(3, 2, 4, 3)))


NORMS = {
    "layer": (nn.LayerNorm(6), (4, 6)),
    "layer over two dimensions": (nn.LayerNorm((4, 6)), (4, 6)),
    "layer without bias": (nn.LayerNorm(6, bias=False), (6,)),
    "rms": (nn.RMSNorm(6), (4, 6)),
    "group": (nn.GroupNorm(2, 6), (6, 3, 2)),
    "batch 1d": (nn.BatchNorm1d(6), (6,)),
    "batch 1d with positions": (nn.BatchNorm1d(6), (6, 4)),
    "batch 2d": (nn.BatchNorm2d(6), (6, 3, 2)),
    "batch 3d": (nn.BatchNorm3d(6), (6, 2, 2, 2)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm(name, no_fallback):
    layer, shape = NORMS[name]
    model = nn.Sequential(copy.deepcopy(layer), nn.Tanh(), nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 5))
    assert_exact(randomised(model), batches_of(inputs_of(*shape)))


@pytest.mark.parametrize("padding", [None, 2])
def test_embedding_with_repeated_tokens(padding, no_fallback):
    tokens = torch.randint(7, (9, 6), generator=torch.Generator().manual_seed(3))
    assert any(len(row.unique()) < 6 for row in tokens)
    model = nn.Sequential(nn.Embedding(7, 4, padding_idx=padding), nn.Tanh(), Mean(1), nn.Linear(4, 5))
    assert_exact(randomised(model), batches_of(tokens))


def test_embedding_whose_gradient_training_scales_goes_to_the_fallback(fallback_names):
    tokens = torch.randint(7, (9, 6), generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(nn.Embedding(7, 4, scale_grad_by_freq=True), nn.Tanh(), Mean(1), nn.Linear(4, 5))
    assert_exact(randomised(model), batches_of(tokens))
    assert fallback_names == {"0.weight"}


# --- whole models ---------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Conv2d(inside, out, 1, stride, bias=False) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += self.short(x)
        return self.relu(out)


def resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, Block(4, 4, 1), Block(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


def test_resnet_with_in_place_relu(no_fallback):
    assert_exact(randomised(resnet()), batches_of(inputs_of(3, 8, 8)))


def test_in_place_changes_of_a_layers_output():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu_(self.first(x))  # a view of the matrix product's result, changed in place
            y = self.second(x)
            y[:, 0] *= 2
            y += x
            return self.head(y.tanh_().mean(1))

    assert_exact(randomised(InPlace()), batches_of(inputs_of(3, 4)))


def test_gradients_taken_inside_the_model():
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_(True)
            (slope,) = torch.autograd.grad(self.linear(x).square().sum(), x, create_graph=True)
            return self.head(slope)

    with pytest.warns(UserWarning, match=r"'linear\.weight'"):  # torch.func cannot run autograd.grad
        assert_exact(randomised(Energy()), batches_of(inputs_of(4)))


def test_transpose_shared_by_a_layer_and_something_else(fallback_names):
    """One edge of the graph into the weight then stands for two operations."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(4, 4, bias=False), nn.Embedding(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.table(torch.ones(len(x), 1, dtype=torch.long)).squeeze(1)
            doubled = self.table.weight.mul(2)
            return F.pad(self.linear(x) + rows + doubled[0] * doubled[1], (0, 1))

    assert_exact(randomised(Shared()), batches_of(inputs_of(4)))
    assert fallback_names == {"table.weight"}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x, x, x, need_weights=False)[0].mean(1))


def test_multihead_attention(fallback_names):
    assert_exact(randomised(Attention()), batches_of(inputs_of(3, 4)))
    assert fallback_names == {
        "inner.in_proj_weight",
        "inner.in_proj_bias",
        "inner.out_proj.weight",
        "inner.out_proj.bias",
    }


class Encoder(nn.Module):
    """A transformer encoder; `first` says whether the batch is the first dimension inside it."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=first, dropout=0.3)
        self.inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x if self.first else x.transpose(0, 1))
        return self.head(x.mean(1 if self.first else 0))


def test_transformer_encoder_batch_first(fallback_names):
    assert_exact(randomised(Encoder(True)), batches_of(inputs_of(3, 4)))
    assert not any("linear" in name or "norm" in name for name in fallback_names)


@pytest.mark.parametrize("length", [3, 5, 6, 9])
def test_transformer_encoder_sequence_first_whatever_the_length(length):
    """Lengths that equal or are a multiple of the batch's size or the probe's must not be taken for samples."""
    assert_exact(randomised(Encoder(False)), batches_of(inputs_of(length, 4), (5, 3, 1)))


class Folded(nn.Module):
    """Windows folded into the batch dimension: window by window of a sample, or sample by sample of a window."""

    def __init__(self, sample_major: bool) -> None:
        super().__init__()
        self.sample_major = sample_major
        self.conv, self.norm, self.linear = nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        samples = len(x)
        x = x.unflatten(2, (3, 4))  # [B, 2, windows, 4]
        x = x.permute(0, 2, 1, 3) if self.sample_major else x.permute(2, 0, 1, 3)
        x = self.linear(torch.tanh(self.norm(self.conv(x.flatten(0, 1)))).flatten(1))
        return x.unflatten(0, (samples, 3) if self.sample_major else (3, samples)).mean(1 if self.sample_major else 0)


def test_windows_folded_sample_by_sample(no_fallback):
    assert_exact(randomised(Folded(True)), batches_of(inputs_of(2, 12)))


def test_windows_folded_otherwise(fallback_names):
    assert_exact(randomised(Folded(False)), batches_of(inputs_of(2, 12), (6, 3)))
    assert fallback_names == {"conv.weight", "conv.bias", "norm.weight", "norm.bias", "linear.weight", "linear.bias"}


class Tied(nn.Module):
    """The embedding's weight is the output's too, and one layer is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.twice = nn.Embedding(CLASSES, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, CLASSES, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.twice(torch.tanh(self.twice(self.embed(x)))).mean(1))


def test_tied_weights_are_summed_before_squaring(no_fallback):
    tokens = torch.randint(CLASSES, (9, 6), generator=torch.Generator().manual_seed(3))
    found = assert_exact(randomised(Tied()), batches_of(tokens))
    assert list(found) == ["embed.weight", "twice.weight", "twice.bias"]


class Functional(nn.Module):
    """Parameters that no known layer owns, and a layer whose weight is also used outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.table = nn.Parameter(torch.zeros(4, 4))
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x + self.position) + F.linear(x, self.linear.weight) + self.table[torch.tensor([0, 2, 2])]
        self.unused(torch.ones(1, 2, dtype=x.dtype))
        return self.head(torch.tanh(x).mean(1))


def test_functional_parameters(fallback_names):
    found = assert_exact(randomised(Functional()), batches_of(inputs_of(3, 4)))
    assert fallback_names == {"linear.weight"}
    assert not found["unused.weight"].any()
    assert not found["unused.bias"].any()


class Spread(nn.Module):
    """Parameters that are broadcast over samples: a class token, positions, tables of them, what stands for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 4, 4))
        self.longer, self.places = nn.Parameter(torch.zeros(9, 4)), nn.Embedding(7, 4)
        self.null, self.pairs = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(5, 4))
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.linear(x)], 1) + self.position
        x = x - self.places(torch.arange(4)[None]) + self.longer[None, :4] + self.pairs[torch.tensor([0, 2, 2, 1])]
        x = torch.where(x > 0, x, self.null) + self.null
        return self.head(torch.tanh(x).mean(1))


@pytest.mark.parametrize("sizes", [(5, 4), (4, 5), (8, 1)])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_what_is_broadcast_over_samples_needs_no_fallback(no_fallback, monkeypatch, sizes, chunk):
    """Also where a batch has as many samples as there are positions, in one use, in several, through views."""
    monkeypatch.setitem(samples.CHUNK_BYTES, "other", chunk)
    assert_exact(randomised(Spread()), batches_of(inputs_of(3, 4), sizes))


class Turned(Spread):
    """The first dimension is that of positions, of which there are as many as samples in one batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = (self.linear(x).transpose(0, 1) + self.position[0, :3, None] + self.null).transpose(0, 1)
        return self.head(torch.tanh(x).mean(1))


def test_rows_that_are_no_samples_are_not_taken_for_them():
    assert_exact(randomised(Turned()), batches_of(inputs_of(3, 4), (3, 6)))


def test_a_hook_on_what_is_broadcast_is_heeded(fallback_names):
    model = randomised(Spread())
    model.position.register_hook(lambda grad: 3 * grad)
    with pytest.warns(UserWarning, match="'position' is computed one sample at a time"):
        assert_exact(model, batches_of(inputs_of(3, 4)))
    assert fallback_names == {"position"}


def test_linear_layers_of_gpt2(no_fallback):
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(6, 4), nn.Tanh(), Conv1D(CLASSES, 6), nn.Flatten(), nn.Linear(3 * CLASSES, CLASSES))
    assert_exact(randomised(model), batches_of(inputs_of(3, 4)))


def test_findings_spare_the_second_set_its_probe(monkeypatch):
    model, batches = randomised(Spread()), batches_of(inputs_of(3, 4))
    alone = fisher_diagonal(model, TASK, batches[1:])
    found = Findings()
    fisher_diagonal(model, TASK, batches[:1], found=found)
    monkeypatch.setattr(Probe, "_check_separation", None)
    again = fisher_diagonal(model, TASK, batches[1:], found=found)
    assert all(torch.equal(alone[name], again[name]) for name in alone)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights(wrap):
    model = nn.Sequential(wrap(nn.Linear(4, 3)), nn.Tanh(), wrap(nn.Linear(3, CLASSES)))
    assert_exact(randomised(model), batches_of(inputs_of(4)))


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


def masked_by_hook(layer: nn.Module) -> nn.Module:
    """Its weight is put in the parameter's place by a pre-hook, and taken out again."""
    parameter = layer.weight

    def replace(module, args):
        del module._parameters["weight"]
        module.weight = parameter * 2

    def put_back(module, args, output):
        del module.weight
        module._parameters["weight"] = parameter

    layer.register_forward_pre_hook(replace)
    layer.register_forward_hook(put_back)
    return layer


def shadowed(layer: nn.Module) -> nn.Module:
    """A plain attribute hides the parameter of the same name."""
    layer.register_forward_pre_hook(
        lambda module, args: vars(module).update(weight=module._parameters["weight"].tanh())
    )
    return layer


def hooked(layer: nn.Module) -> nn.Module:
    layer.weight.register_hook(lambda grad: grad * (torch.arange(grad.numel()).view(grad.shape) % 2))
    return layer


REPLACED = {
    "pruned": pruned,
    "structured": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "pruned bias": lambda layer: prune.random_unstructured(layer, "bias", 0.4),
    "pruned twice": lambda layer: prune.random_unstructured(pruned(layer), "weight", 0.2),
    "weight norm": torch.nn.utils.weight_norm,
    "spectral norm": torch.nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "masked by a hook": masked_by_hook,
    "shadowed": shadowed,
    "gradient hook": hooked,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:torch.func cannot run")
@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("name", REPLACED)
def test_weights_that_are_made_of_parameters(name, kind, fallback_names):
    """What a layer computes with is not the parameter that it holds: the fast way must not take it."""
    own = randomised(nn.Linear(4, 6) if kind == "linear" else nn.Conv2d(1, 6, 2))
    rest = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(6 if kind == "linear" else 18, CLASSES)).double()
    model = nn.Sequential(REPLACED[name](own), rest)
    states = {key: value.clone() for key, value in model.state_dict().items()}
    found = assert_exact(model, batches_of(inputs_of(*((4,) if kind == "linear" else (1, 2, 4)))))
    assert any(key.startswith("0.") for key in fallback_names)
    assert not any(key.startswith("1.") for key in fallback_names), "the plain layer is recorded"
    for mask in [key for key in states if key.endswith("_mask")]:
        assert not found[mask.replace("_mask", "_orig")][states[mask] == 0].any(), "a pruned weight has Fisher 0"
    assert all(torch.equal(value, states[key]) for key, value in model.state_dict().items())
    if name != "masked by a hook":  # which closes over the parameter
        copy_module(model)


def test_forward_replaced_in_the_class(monkeypatch):
    plain = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: plain(self, x) * x.mean(-1, keepdim=True))
    assert_exact(randomised(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, CLASSES))), batches_of(inputs_of(4)))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("trained", ["adapters", "all"])
def test_adapters(dora, trained):
    import peft

    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    how = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"], use_dora=dora, init_lora_weights=False)
    model = peft.get_peft_model(net, how).double()
    if trained == "all":
        model.requires_grad_(True)
    assert_exact(model, batches_of(inputs_of(4)))


def test_frozen_parameters_are_left_out(no_fallback):
    model = randomised(resnet())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in ("2.conv2.weight", "3.norm1.bias", "6.weight"))
    assert list(assert_exact(model, batches_of(inputs_of(3, 8, 8)))) == ["2.conv2.weight", "3.norm1.bias", "6.weight"]


def test_subclass_and_hooks_of_others_are_respected():
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(2 * x, self.weight, self.bias)

    model = randomised(nn.Sequential(Doubled(4, 3), nn.Linear(3, 3), nn.Linear(3, CLASSES)))
    model[1].register_forward_pre_hook(lambda module, args: (args[0].tanh(),))
    model[1].register_forward_hook(lambda module, args, output: output * 3)
    plain = model[2].forward
    model[2].forward = lambda x: plain(x) * 2  # type: ignore[method-assign]
    assert_exact(model, batches_of(inputs_of(4)))


def test_checkpointing_is_exact_or_refused():
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.first, self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
            self.reentrant = reentrant

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.inner, self.first(x), use_reentrant=self.reentrant))

    assert_exact(randomised(Checkpointed(False)), batches_of(inputs_of(4)))
    with pytest.raises(InexactFisher, match="use_reentrant=False"):
        fisher_diagonal(randomised(Checkpointed(True)), TASK, batches_of(inputs_of(4)))


def test_model_that_torch_func_cannot_run_is_looped_with_a_warning():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            rows = [row * self.scale if float(row.sum()) > 0 else row - self.scale for row in x]
            return self.head(torch.stack(rows))

    with pytest.warns(UserWarning, match=r"'scale'.*one sample at a time"):
        assert_exact(randomised(Branching()), batches_of(inputs_of(4)))


def experts():
    class Experts(nn.Module):
        """Each sample goes to one of two layers, so their batches are as large as the data say."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            choice = x[:, 0] > 0
            out = x.new_zeros(len(x), CLASSES)
            out = out.index_put((choice,), self.left(x[choice]))
            return out.index_put((~choice,), self.right(x[~choice]))

    return Experts()


def test_rows_chosen_by_the_data():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert_exact(randomised(experts()), batches_of(inputs_of(4), (6, 3)))


@functools.cache
def vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
        num_labels=CLASSES,
    )  # fmt: skip
    return ViTForImageClassification(config)


@functools.cache
def swin():
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=4, depths=[2, 1], num_heads=[1, 2], window_size=4, num_labels=CLASSES
    )
    return SwinForImageClassification(config)


def test_vision_transformer(no_fallback):
    assert_exact(randomised(copy.deepcopy(vit())), batches_of(inputs_of(3, 8, 8), (6, 3)))


def test_swin(no_fallback):
    assert_exact(randomised(copy.deepcopy(swin())), batches_of(inputs_of(3, 16, 16), (6, 3)))


# --- reference vectors ----------------------------------------------------------------------------------------------


def reference():
    vectors = load_file(REFERENCE / "fisher.safetensors")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).double()
    model.load_state_dict({k.removeprefix("model."): v for k, v in vectors.items() if k.startswith("model.")})
    return model, vectors


@pytest.mark.parametrize("estimator", ["sample", "batch"])
@pytest.mark.parametrize("split", ["forget", "retain"])
def test_reference_vectors(estimator, split):
    model, vectors = reference()
    count = sum(key.startswith(f"{split}.") and key.endswith(".x") for key in vectors)
    batches = [{"input": vectors[f"{split}.{i}.x"], "label": vectors[f"{split}.{i}.y"]} for i in range(count)]
    found = fisher_diagonal(model, TASK, batches, estimator=estimator)
    for name, value in found.items():
        expected = vectors[f"{estimator}.{split}.{name}"]
        assert (value - expected).abs().max() <= 1e-8 * expected.abs().max(), name


def test_batch_estimator_counts_each_batch_once():
    model, batches = randomised(resnet()).eval(), batches_of(inputs_of(3, 8, 8), (6, 2, 1))
    expected = fisher_of_batch_means(model, TASK, batches)
    for name, value in fisher_diagonal(model, TASK, batches, estimator="batch").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=0)


# --- invariances ----------------------------------------------------------------------------------------------------


def test_neither_the_split_into_batches_nor_the_order_matters():
    model, x = randomised(resnet()), inputs_of(3, 8, 8)
    whole = batches_of(x, (9,))
    expected = fisher_diagonal(model, TASK, whole)
    turned = [{key: value.flip(0) for key, value in whole[0].items()}]
    for other in (batches_of(x, (4, 4, 1)), batches_of(x, (1,) * 9), batches_of(x, (2, 0, 7)), turned):
        for name, value in fisher_diagonal(model, TASK, other).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-300)


class Processes:
    """An engine's part in one of several processes, run one after another; sums are taken by the test."""

    device, num_processes = torch.device("cpu"), 3

    def __init__(self, process: int) -> None:
        self.process = process
        self.shared: list[list[Tensor]] = []

    def shard(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.tensor_split(3)[self.process] for key, value in batch.items()}

    def all_reduce_(self, tensors) -> None:
        self.shared.append([tensor.clone() for tensor in tensors])

    def autocast(self):
        return torch.autocast("cpu", enabled=False)


def test_processes_add_up_even_without_rows():
    model, batches = randomised(resnet()), batches_of(inputs_of(3, 8, 8), (7, 2))  # the third gets none of the last
    expected = fisher_diagonal(model, TASK, batches)
    engines = [Processes(process) for process in range(3)]
    for engine in engines:
        fisher_diagonal(model, TASK, batches, engine=engine)
    sums = [sum(parts) / 9 for parts in zip(*(engine.shared[0] for engine in engines), strict=True)]
    for found, value in zip(sums, expected.values(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-300)


def test_batch_estimator_sums_gradients_over_processes_before_squaring():
    model, batches = randomised(resnet()).eval(), batches_of(inputs_of(3, 8, 8), (7, 2))
    engines = [Processes(process) for process in range(3)]
    for engine in engines:
        fisher_diagonal(model, TASK, batches, estimator="batch", engine=engine)
    for number, batch in enumerate(batches):
        means = torch.autograd.grad(TASK.loss(model, batch).mean(), list(model.parameters()))
        for position, mean in enumerate(means):
            torch.testing.assert_close(sum(e.shared[number][position] for e in engines), mean, rtol=1e-10, atol=1e-15)


def test_the_model_is_left_as_it_was():
    model = randomised(resnet()).train()
    model[2].norm1.eval()
    model[0].bias.grad = torch.ones(4, dtype=torch.float64)
    model[3].conv1.weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with torch.no_grad():
        fisher_diagonal(model, TASK, batches_of(inputs_of(3, 8, 8)))
    assert modes == [module.training for module in model.modules()]
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["0.bias"]
    assert torch.equal(model[0].bias.grad, torch.ones(4, dtype=torch.float64))
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["3.conv1.weight"]


def test_hooks_and_modes_come_back_after_an_error():
    model = randomised(resnet()).train()
    broken = batches_of(inputs_of(3, 8, 8))
    broken[1]["input"][2, 0, 0, 0] = torch.nan
    with pytest.raises(DataError):
        fisher_diagonal(model, TASK, broken)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_float32_and_autocast_are_close_to_float64():
    model, batches = randomised(resnet()), batches_of(inputs_of(3, 8, 8))
    expected = fisher_diagonal(model, TASK, batches)
    narrow = [{"input": b["input"].float(), "label": b["label"]} for b in batches]

    class Half(Processes):
        def shard(self, batch):
            return batch

        def all_reduce_(self, tensors) -> None: ...

        def autocast(self):
            return torch.autocast("cpu", dtype=torch.bfloat16)

    # float32 has 24 bits, bfloat16 8; squares double the error, layers add to it
    for engine, tolerance in ((None, 1e-4), (Half(0), 0.1)):
        found = fisher_diagonal(copy.deepcopy(model).float(), TASK, narrow, engine=engine)
        for name, value in found.items():
            assert value.dtype == torch.float32
            assert (value - expected[name]).norm() <= tolerance * expected[name].norm(), (name, engine)


def test_tied_uses_stay_apart_under_autocast(no_fallback):
    class Half(Processes):
        def shard(self, batch):
            return batch

        def all_reduce_(self, tensors) -> None: ...

        def autocast(self):
            return torch.autocast("cpu", dtype=torch.bfloat16)

    tokens = torch.randint(CLASSES, (9, 6), generator=torch.Generator().manual_seed(3))
    found = fisher_diagonal(randomised(Tied()).float(), TASK, batches_of(tokens), engine=Half(0))
    assert all(value.isfinite().all() and value.any() for value in found.values())


class Sizes(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return result


def test_no_temporary_grows_with_batch_times_parameters():
    width, samples = 512, 64
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), Mean(1), nn.Linear(width, CLASSES))
    model.register_parameter("shift", nn.Parameter(torch.zeros(1)))
    batch = {"input": torch.randn(samples, 2, 4), "label": torch.zeros(samples, dtype=torch.long)}
    with Sizes() as sizes:
        fisher_diagonal(model, TASK, [batch])
    parameter = width * width * 4
    assert sizes.largest >= parameter
    assert sizes.largest <= 4 * parameter  # all samples' gradients at once would be 64 times as large


# --- what cannot be exact, and bad input ----------------------------------------------------------------------------


def test_batch_norm_without_running_statistics_is_named():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, CLASSES))
    with pytest.raises(InexactFisher, match=r"other samples.*without running statistics: '1'"):
        fisher_diagonal(model.double(), TASK, batches_of(inputs_of(4)))


@pytest.mark.parametrize("detach", [False, True])
def test_model_that_mixes_samples_is_refused(detach):
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            mean = y.mean(0)
            return y - (mean.detach() if detach else mean).roll(1)

    with pytest.raises(InexactFisher, match="other samples"):
        fisher_diagonal(Centred().double(), TASK, batches_of(inputs_of(4)))


@pytest.mark.parametrize("sizes", [(5, 4), (1,) * 9])
def test_randomness_in_evaluation_mode_is_refused(sizes):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(F.dropout(x, 0.5))  # forgot training=self.training

    with pytest.raises(InexactFisher, match="random numbers"):
        fisher_diagonal(Noisy().double(), TASK, batches_of(inputs_of(4), sizes))


def test_overwritten_input_is_refused():
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            y = self.linear(x)
            x.mul_(2)
            return self.head(y)

    with pytest.raises(InexactFisher, match=r"'linear' was overwritten in place"):
        fisher_diagonal(Overwriting().double(), TASK, batches_of(inputs_of(4)))


def test_detached_losses_are_refused():
    class Detached(nn.Linear):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    for estimator in ("sample", "batch"):
        with pytest.raises(InexactFisher, match="no gradient"):
            fisher_diagonal(Detached(4, CLASSES).double(), TASK, batches_of(inputs_of(4)), estimator=estimator)


@pytest.mark.parametrize("estimator", ["sample", "batch"])
def test_bad_input(estimator):
    model, good = randomised(nn.Linear(4, CLASSES)), batches_of(inputs_of(4))
    run = functools.partial(fisher_diagonal, model, TASK, estimator=estimator)
    for empty in ([], [{key: value[:0] for key, value in good[0].items()}]):
        with pytest.raises(EmptySet, match="at least one sample"):
            run(empty)
    nan = copy.deepcopy(good)
    nan[1]["input"][2, 1] = torch.nan
    nan[1]["index"] = torch.tensor([7, 8, 41, 10])
    with pytest.raises(DataError, match=r"sample 2 of batch 1 \(index 41\)"):
        run(nan)
    with pytest.raises(DataError, match="different lengths"):
        run([{"input": good[0]["input"], "label": good[0]["label"][:2]}])
    model.weight.data[0, 0] = torch.inf
    with pytest.raises(Diverged, match="sample 0 of batch 0"):
        run(good)


def test_gradient_that_is_not_finite_names_the_batch():
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, CLASSES, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).abs().sqrt()  # its derivative at 0 is infinite

    batches = batches_of(inputs_of(1))
    batches[1]["input"][0] = 0
    with pytest.raises(Diverged, match=r"'linear.weight' in batch 1 is not finite"):
        fisher_diagonal(randomised(Root()), TASK, batches)


def test_wrong_arguments():
    batches = batches_of(inputs_of(4))
    with pytest.raises(SettingError, match="'sample' or 'batch'"):
        fisher_diagonal(nn.Linear(4, CLASSES).double(), TASK, batches, estimator="mean")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no parameter"):
        fisher_diagonal(nn.Linear(4, CLASSES).double().requires_grad_(False), TASK, batches)

    class Reduced:
        def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch["input"]), batch["label"])

    with pytest.raises(ModelError, match=r"one loss a sample, shape \(5,\)"):
        fisher_diagonal(nn.Linear(4, CLASSES).double(), Reduced(), batches)


@pytest.mark.parametrize("count", [1, 3])
def test_probes_keep_no_activations_beside_the_batchs(count):
    """A pass takes little more than a step of training does, though losses are computed again to be compared."""
    layers = [layer for _ in range(10) for layer in (nn.Linear(32, 32), nn.Tanh())]
    model = nn.Sequential(*layers, Mean(1), nn.Linear(32, CLASSES)).double()
    batch = batches_of(inputs_of(4096, 32)[: 3 * count], (count,) * 3)[0]
    training, whole = (TensorMemory(torch.device("cpu")) for _ in range(2))
    with training:
        TASK.loss(model, batch).sum().backward()
    model.zero_grad()
    with whole:
        fisher_diagonal(model, TASK, [batch])
    # of several samples three are sent backwards alone, to see whether they are apart
    assert whole.peak < (1.5 if count == 1 else 2.5) * training.peak
