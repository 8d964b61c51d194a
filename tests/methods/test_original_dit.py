"""A DiT in diffusers' layout is unlearned as in the original's, where every block shares two embeddings."""

import pytest
import torch
from torch import nn

import untrain
from helpers.original_dit import OriginalDiT
from untrain.diffusion.denoisers import build_denoiser, from_dit, to_dit
from untrain.models.checkpoints import load_into
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.task import ClassDiffusion

SIZES = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8}
TASK = ClassDiffusion(num_classes=3, timesteps=20, beta_end=0.3, drop=0.1)


class Original(nn.Module):
    """The original under the call of diffusers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = OriginalDiT(depth=3, width=16, heads=2, size=8, classes=3, channels=1).double()

    def forward(self, x, t, class_labels):
        return self.net(x, t, class_labels)


def translated(original):
    module = build_denoiser("dit-s-2", num_classes=3, in_channels=1, image_size=8, **SIZES).double()
    load_into(module, from_dit(original.net.state_dict(), module))
    return module


def sets():
    g = torch.Generator().manual_seed(1)
    drawn = lambda n: 2 * torch.rand(n, 1, 8, 8, generator=g, dtype=torch.float64) - 1  # noqa: E731
    return {
        "forget": [(drawn(6), torch.full((6,), 2)) for _ in range(3)],
        "retain": [(drawn(6), torch.arange(6) % 2) for _ in range(5)],
    }


ADAMW = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}
SFRON = {"steps": 10, "alpha": 1.0, "gamma": 1.0, "max_norm": 1.0}
METHODS = {
    "published": ("sfron", {**SFRON, "published": True, "objective": "ascent", "optimizer": ADAMW}),
    "exact Fisher": ("sfron", {**SFRON, "optimizer": ADAMW}),
    "joint": ("sfron", {**SFRON, "published": True, "online": False, "optimizer": ADAMW}),
    "salun": ("salun", {"steps": 10, "fraction": 0.5, "max_norm": 1.0, "optimizer": {"name": "adam", "lr": 1e-3}}),
    "ssd": ("ssd", {"fraction": 0.05}),
    "esd": ("esd", {"steps": 4, "samples": 2, "sampler": Sampler(3, guidance_scale=2.0), "optimizer": ADAMW}),
    "selective-amnesia": (
        "selective-amnesia",
        {"steps": 5, "replay_samples": 4, "fisher_samples": 4, "fisher_timesteps": 3, "sampler": Sampler(2),
         "optimizer": ADAMW},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", METHODS)
def test_steps_are_those_of_the_original_layout(case):
    """In float64, where only the order of sums differs."""
    name, settings = METHODS[case]
    original = Original()
    model = translated(original)
    theirs, ours = (
        untrain.unlearn(each, **sets(), task=TASK, method=name, device="cpu", init=lambda e=each: e, **settings)
        for each in (original, model)
    )
    back, expected = to_dit(ours.model), theirs.model.net.state_dict()
    start = original.net.state_dict()
    for key, value in expected.items():
        if key != "pos_embed":
            torch.testing.assert_close(back[key], value, rtol=1e-9, atol=1e-9, msg=key)
    moved = [key for key in expected if not torch.equal(expected[key], start[key])]
    assert "y_embedder.embedding_table.weight" in moved or name == "ssd"
    if ours.mask is not None:
        count = lambda mask: sum(int(m.sum()) for m in mask.values())  # noqa: E731
        # of the 3 × 16 biases of keys, whose gradient is 0 but for rounding, no two computations agree
        assert abs(count(ours.mask) - count(theirs.mask)) <= 48 < count(theirs.mask)
        assert sum(m.numel() for m in ours.mask.values()) == sum(m.numel() for m in theirs.mask.values())
    if case == "published":
        apart = list(ours.model.transformer_blocks[0].norm1.emb.parameters())
        assert apart[0] is not next(ours.model.transformer_blocks[1].norm1.emb.parameters()), "apart again"


def test_blocks_that_differ_stay_apart():
    model = translated(Original())
    with torch.no_grad():
        for parameter in model.transformer_blocks[1].norm1.emb.parameters():
            parameter.mul_(1.1)
    result = untrain.unlearn(model, **sets(), task=TASK, method="finetune", steps=2, device="cpu")
    first, second = (result.model.transformer_blocks[i].norm1.emb.class_embedder.embedding_table.weight for i in (0, 1))
    assert not torch.allclose(first, second)


def test_a_model_that_is_changed_in_place_keeps_its_parameters():
    model = translated(Original())
    before = dict(model.named_parameters())
    untrain.unlearn(model, **sets(), task=TASK, method="finetune", steps=2, device="cpu", inplace=True)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(after[name] is before[name] for name in before)
    to_dit(model)  # the copies are still equal
