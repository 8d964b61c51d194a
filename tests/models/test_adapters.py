"""Adapters in the place of weights: put in, trained, measured at the weights, and taken out to the bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from untrain.errors import ModelError, SettingError, UnknownName
from untrain.fisher import fisher_diagonal
from untrain.models.adapters import Adapters, attach, check_adapters, count_base, saliency_space, weights_of
from untrain.models.checkpoints import bytes_of, state_hash
from untrain.models.lora import apply_lora, base_hash, save_lora
from untrain.models.subject import Subject
from untrain.runs.dry_run import TensorMemory
from untrain.tasks.classification.task import Classification

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # which peft asks for


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)]
        return nn.Sequential(*layers)


def batch(count: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"input": torch.randn(count, 3, 6, 6, generator=g), "label": torch.arange(count) % 5}


def stir(module: nn.Module) -> None:
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=g) / 10


def test_attached_adapters_change_nothing_and_are_all_that_is_trained() -> None:
    module, x = net(), batch()["input"]
    before, names, owned = module(x), list(module.state_dict()), set(vars(module))
    state = torch.get_rng_state()
    attached = attach(module, Adapters(rank=2), 3)
    assert torch.equal(module(x), before) and torch.equal(torch.get_rng_state(), state)
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all("lora_" in name for name in trained)
    again = net()
    attach(again, Adapters(rank=2), 3)
    pairs = zip(module.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "drawn from the seed"
    lora = attached.merge()
    assert torch.equal(module(x), before) and list(module.state_dict()) == names and set(vars(module)) == owned
    assert all(p.requires_grad for p in module.parameters()) and set(lora.factors) == {"0", "4"}


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_merged_weights_are_what_the_adapters_did(alpha: float | None, tmp_path: Path) -> None:
    """Against the module with adapters in it, in float64; and the file gives the same weights to the last bit."""
    module, x = net().double(), batch()["input"].double()
    base = copy.deepcopy(module)
    attached = attach(module, Adapters(rank=2, alpha=alpha), 0)
    stir(module)
    expected = module(x)
    lora = attached.merge()
    assert (expected - base(x)).abs().max() > 1e-3
    assert torch.allclose(module(x), expected, atol=1e-6), "factors are kept in float32"
    assert torch.equal(module[4].bias, base[4].bias)
    path = save_lora(lora, tmp_path / "lora.safetensors")
    made = apply_lora(base, path)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), module.parameters(), strict=True))


def test_a_frozen_base_of_few_bits_comes_back_whole() -> None:
    """Half precision below adapters in float32; what they learned is added to the weights as they came."""
    module, given = net(), batch()
    base = copy.deepcopy(module)
    attached = attach(module, Adapters(rank=2, base="bf16"), 0)
    kinds = {name: p.dtype for name, p in module.named_parameters()}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "lora_" not in name} == {torch.bfloat16}
    module(given["input"].bfloat16()).float().logsumexp(1).sum().backward()
    assert all(p.grad is not None for n, p in module.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        module.get_parameter("4.lora_B.untrain.weight").fill_(2.0**-20)  # which bfloat16 would round away
    lora = attached.merge()
    change = (module[4].weight - base[4].weight).detach()
    assert change.abs().max() > 0 and torch.equal(module[0].weight, base[0].weight)
    assert torch.allclose(change, lora.factors["4"][0] @ lora.factors["4"][1], atol=1e-7)


# ── saliency ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fisher_is_that_of_the_weights_below() -> None:
    """By outputs for B and by inputs for A, as means of the weights' own Fisher; none is empty at B = 0."""
    plain, given = net().double(), batch()
    given["input"] = given["input"].double()
    task = Classification(5)
    expected = fisher_diagonal(plain, task, [given])
    module = copy.deepcopy(plain)
    attach(module, Adapters(rank=2), 0)
    flags = {name: p.requires_grad for name, p in module.named_parameters()}
    direct = fisher_diagonal(module, task, [given])
    assert not direct["4.lora_A.untrain.weight"].any(), "the gradient of A itself is 0"
    with saliency_space(module) as space:
        found = space.fold(fisher_diagonal(module, task, [given]))
    assert flags == {name: p.requires_grad for name, p in module.named_parameters()}
    assert list(found) == [name for name, requires in flags.items() if requires]
    for name in ("0", "4"):
        whole = expected[f"{name}.weight"]
        up, down = found[f"{name}.lora_B.untrain.weight"], found[f"{name}.lora_A.untrain.weight"]
        assert up.shape == module.get_parameter(f"{name}.lora_B.untrain.weight").shape
        assert down.shape == module.get_parameter(f"{name}.lora_A.untrain.weight").shape
        for k in range(2):
            assert torch.allclose(up[:, k].flatten(), whole.flatten(1).mean(1), rtol=1e-9)
            assert torch.allclose(down[k], whole.mean(0), rtol=1e-9)


def test_it_is_the_expected_fisher_over_the_other_factor() -> None:
    """E over B of (∂ℓ/∂A)² by drawing B often, in proportion; so the mask of A does not hang on B = 0."""
    module, given = net().double(), batch()
    given["input"] = given["input"].double()
    task = Classification(5)
    attach(module, Adapters(rank=1, targets="4"), 0)
    with saliency_space(module) as space:
        found = space.fold(fisher_diagonal(module, task, [given]))["4.lora_A.untrain.weight"]
    up, total = module.get_parameter("4.lora_B.untrain.weight"), torch.zeros_like(found)
    g, draws = torch.Generator().manual_seed(0), 100
    for _ in range(draws):  # of 1e-4, so small that the function stays where it is
        with torch.no_grad():
            up.copy_(1e-4 * torch.randn(up.shape, generator=g, dtype=up.dtype))
        total += fisher_diagonal(module, task, [given])["4.lora_A.untrain.weight"]
    estimate = total / draws / 1e-8 / len(up)
    assert torch.corrcoef(torch.stack([estimate.flatten(), found.flatten()]))[0, 1] > 0.99
    assert float(estimate.sum() / found.sum()) == pytest.approx(1, abs=0.2)


def test_parameters_are_counted_below_adapters() -> None:
    module = net()
    whole = sum(p.numel() for p in module.parameters())
    assert count_base(module) == whole
    attach(module, Adapters(rank=2), seed=0)
    assert count_base(module) == whole < sum(p.numel() for p in module.parameters())


def test_a_module_without_adapters_is_as_it_was() -> None:
    module = net()
    with saliency_space(module) as space:
        given = {name: p.detach() for name, p in module.named_parameters()}
        assert list(space.fold(given)) == list(given) and space.fold_magnitudes(given) == given
    assert weights_of(module, ["4.bias"]) == {"4.bias": module[4].bias}


def test_weights_are_what_layers_compute_with() -> None:
    module = net()
    attached = attach(module, Adapters(rank=2, alpha=1.0), 0)
    stir(module)
    found = weights_of(module, ["0.base_layer.weight", "4.base_layer.weight"])
    attached.merge()
    assert torch.allclose(found["0.base_layer.weight"], module[0].weight, atol=1e-6)
    assert torch.allclose(found["4.base_layer.weight"], module[4].weight, atol=1e-6)


# ── targets, and what is refused ────────────────────────────────────────────────────────────────────────────────


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8))


@pytest.mark.parametrize(
    ("make", "targets", "count"),
    [
        (vit, None, 8),
        (vit, "classifier", 1),
        (vit, ["q_proj", "*.v_proj"], 2),
        (vit, "vit.layers.0.attention.q_proj", 1),
        (gpt2, None, 4),  # its head is the embedding of its words
        (gpt2, "c_attn", 1),
    ],
)
def test_targets(make: Any, targets: Any, count: int) -> None:
    module = make().eval()
    inputs = torch.randn(2, 3, 8, 8) if make is vit else torch.randint(20, (2, 8))
    with torch.no_grad():
        before = module(inputs).logits
        attached = attach(module, Adapters(rank=1, targets=targets), 0)
        assert len(attached.layers) == count
        assert torch.equal(module(inputs).logits, before)
        stir(module)
        expected = module(inputs).logits
        attached.merge()
        assert torch.allclose(module(inputs).logits, expected, atol=1e-5) and not torch.equal(expected, before)


def test_attention_of_torch_reads_weights_that_no_adapter_reaches() -> None:
    module = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    assert list(check_adapters(module, Adapters(rank=2))) == ["1"]


def test_what_is_refused() -> None:
    module = net()
    with pytest.raises(SettingError, match=r"rank is 6, and 4 is a matrix of 5 × 24"):
        check_adapters(module, Adapters(rank=6, targets=["4"]))
    with pytest.raises(UnknownName, match="to_q"):
        check_adapters(module, Adapters(targets=["to_q"]))
    with pytest.raises(SettingError, match=r"matches no linear layer"):
        check_adapters(module, Adapters(targets=["*.attn2.*"]))
    with pytest.raises(SettingError, match="'xattn' matches no"):
        check_adapters(module, Adapters(targets="xattn"))
    with pytest.raises(SettingError, match="rank"):
        Adapters(rank=0)
    prune.l1_unstructured(module[4], "weight", 0.5)
    with pytest.raises(ModelError, match="4 is pruned.*prune.remove"):
        check_adapters(module, Adapters(rank=2))
    prune.remove(module[4], "weight")
    attach(module, Adapters(rank=2), 0)
    with pytest.raises(ModelError, match="has adapters already"):
        check_adapters(module, Adapters(rank=2))


def test_fused_projections_are_refused() -> None:
    module: Any = net()
    module[4].fused_projections = True  # as attention of diffusers says it
    with pytest.raises(ModelError, match="unfuse_qkv_projections"):
        check_adapters(module, Adapters(rank=2))


@pytest.mark.parametrize("base", [None, "bf16"])
def test_a_base_that_is_shared_is_never_copied_or_changed(base: Any) -> None:
    """What is allocated from the copy to the merged weights is far below a second base, but for one in half the bits;
    and afterwards all that has no adapter lies where it lay."""
    layers = [nn.Linear(256, 256, bias=False) for _ in range(16)]
    module = nn.Sequential(*layers, nn.Linear(256, 4))
    whole, before, memory = bytes_of(module), state_hash(module), TensorMemory(torch.device("cpu"))
    held = memory.count([*module.parameters()])
    with memory:
        subject = Subject(module, adapters=Adapters(rank=2, targets=["16"], base=base)).copy(share=True)
        attached = attach(subject.module, subject.adapters, 0, shared=subject.shares)  # type: ignore[arg-type]
        stir(subject.module)
        attached.merge()
    allowed = 0.2 + (0.5 if base else 0)
    assert memory.peak - held < allowed * whole
    places = [
        (a.data_ptr(), b.data_ptr()) for a, b in zip(module.parameters(), subject.module.parameters(), strict=True)
    ]
    assert [a == b for a, b in places] == [True] * 16 + [False, True]
    assert state_hash(module) == before != state_hash(subject.module)


def test_a_narrow_base_is_hashed_one_weight_after_the_other() -> None:
    module = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(16))).bfloat16()
    memory = TensorMemory(torch.device("cpu"))
    held = memory.count([*module.parameters()])
    with memory:
        digest = base_hash(module)
    assert memory.peak - held <= 2 * 4 * 256 * 256 and digest == base_hash(module.float())
