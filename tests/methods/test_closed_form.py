"""Closed-form edits equal the published formulas, which invert a D × D matrix; methods edit maps by texts alone."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import untrain
from helpers.concept_images import count_concept_images
from helpers.small_pipelines import TEXTS
from untrain.diffusion.text import encode_prompts, own_size
from untrain.errors import ModelError, SettingError, UnlearningWarning
from untrain.methods import make
from untrain.methods.base import check_runs
from untrain.methods.closed_form import Edit, condense, fuse_edits, solve_edit

FORGET, RETAIN = untrain.Concept(TEXTS[0], anchor=TEXTS[1]), untrain.Concept(TEXTS[2])
SETS: dict[str, Any] = {"forget": FORGET, "retain": RETAIN, "task": "text-to-image", "device": "cpu"}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published(W: Tensor, c: Tensor, t: Tensor, kept: Tensor, lam: float, s: float, s_kept: float) -> Tensor:
    """UCE's formula as its code has it: one outer product after the other, and an inverse."""
    mat1, mat2 = lam * W, lam * torch.eye(W.shape[1], dtype=W.dtype)
    for c_i, v_i in zip(c, t @ W.T, strict=True):
        mat1, mat2 = mat1 + s * torch.outer(v_i, c_i), mat2 + s * torch.outer(c_i, c_i)
    for c_p in kept:
        mat1, mat2 = mat1 + s_kept * torch.outer(W @ c_p, c_p), mat2 + s_kept * torch.outer(c_p, c_p)
    return mat1 @ torch.inverse(mat2)


@pytest.mark.parametrize(
    ("width", "concepts", "kept"),
    [(768, 1, 1), (768, 20, 300), (768, 10, 800), (1024, 5, 20), (96, 150, 40)],
    ids=["one", "woodbury", "more-than-wide", "sd2", "more-moved-than-wide"],
)
def test_an_edit_equals_the_published_formula(width: int, concepts: int, kept: int) -> None:
    """1e-10 of the largest weight, in float64, at the widths of Stable Diffusion's texts and their spread."""
    W, c, t = draw(320, width, seed=0) / 25, draw(concepts, width, seed=1), draw(concepts, width, seed=2)
    p = draw(kept, width, seed=3)
    t[0] = c[0] if concepts > 1 else t[0]  # one that stays
    edit = solve_edit(c, t, p, lam=0.5, edit_scale=2.0, keep_scale=0.7)
    expected = published(W, c, t, p, 0.5, 2.0, 0.7)
    assert (W + edit.change(W) - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert edit.rank == min(concepts - (concepts > 1), width)
    assert torch.linalg.matrix_rank(edit.change(W)) <= edit.rank


def test_many_kept_vectors_are_condensed_to_few() -> None:
    p, c, t, W = draw(200, 16, seed=0), draw(2, 16, seed=1), draw(2, 16, seed=2), draw(20, 16, seed=3)
    few = condense(p)
    assert len(few) == 16 and len(condense(p[:5])) == 5
    expected = published(W, c, t, p, 0.5, 1.0, 0.7)
    found = W + solve_edit(c, t, few, lam=0.5, keep_scale=0.7).change(W)
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_an_edit_hits_its_target_and_keeps_what_is_kept_where_it_is_free_to() -> None:
    W, c, t, p = (draw(n, 64, seed=n) for n in (40, 3, 4, 5))
    edit = solve_edit(c, t[:3], p, lam=1e-9)
    assert torch.allclose(c @ (W + edit.change(W)).T, t[:3] @ W.T, atol=1e-6)
    assert torch.allclose(p @ edit.change(W).T, torch.zeros(5, 40, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize(("width", "tokens"), [(32, 4), (12, 9)])
def test_a_fusion_equals_its_formula(width: int, tokens: int) -> None:
    """W′ = (λW + Σ_i Σ_c W_i c cᵀ + s Σ_p W p pᵀ)(λI + Σ c cᵀ + s Σ p pᵀ)⁻¹; W_i is W after edit i alone."""
    W, p = draw(20, width, seed=0), draw(3, width, seed=9)
    edits = [Edit(draw(width, 5, seed=i), draw(5, width, seed=i + 50)) for i in (1, 2, 3)]
    contexts = [draw(tokens, width, seed=i + 20) for i in (1, 2, 3)]
    mat1 = 4.0 * W + 0.5 * W @ p.T @ p
    mat2 = 4.0 * torch.eye(width, dtype=torch.float64) + 0.5 * p.T @ p
    for edit, c in zip(edits, contexts, strict=True):
        mat1, mat2 = mat1 + (W + W @ edit.left @ edit.right) @ c.T @ c, mat2 + c.T @ c
    expected = mat1 @ torch.inverse(mat2)
    fused = fuse_edits(zip(edits, contexts, strict=True), p, lam=4.0, keep_scale=0.5)
    assert (W + fused.change(W) - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert fused.rank == min(15, width)


# On pipelines.


def edited(pipe: Any, method: str, **settings: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Name → weight before and after, of all that changed."""
    result = untrain.unlearn(pipe, method=method, **{**SETS, **settings})
    after = result.model.unet.state_dict()
    before = pipe.unet.state_dict()
    return {name: (before[name], after[name]) for name in before if not torch.equal(before[name], after[name])}


def is_map(name: str) -> bool:
    return ".attn2.to_k.weight" in name or ".attn2.to_v.weight" in name


@pytest.mark.parametrize("kind", ["pipe", "xl"])
def test_uce_is_the_published_formula_at_the_last_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(kind)
    changed = edited(pipe, "uce", tokens="last")
    assert changed.keys() == {name for name in pipe.unet.state_dict() if is_map(name)}
    embeds = encode_prompts(pipe, TEXTS, own_size(pipe)).embeds[1:]
    ids = pipe.tokenizer(list(TEXTS))["input_ids"]
    c, t, p = (row[len(tokens) - 2][None] for row, tokens in zip(embeds, ids, strict=True))
    for name, (before, after) in changed.items():
        expected = published(before, c, t, p, 0.5, 1.0, 1.0)
        assert torch.allclose(after, expected, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("method", ["uce", "mace-refine"])
def test_no_image_is_made_and_nothing_is_drawn_by_chance(
    pipe: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_concept_images(monkeypatch)
    first, again = (edited(pipe, method, seed=seed) for seed in (0, 1))
    assert counted == []
    assert first and all(torch.equal(after, again[name][1]) for name, (_, after) in first.items())


def test_refinement_is_the_published_formulas_over_the_words_around_two_concepts(pipe: Any) -> None:
    """Each concept's maps W_i over the tokens that both sentences share, then the fusion over all tokens."""
    forget = [FORGET, untrain.Concept("blue", anchor="pink")]
    changed = edited(pipe, "mace-refine", forget=forget, lam=3.0, fuse_lam=5.0, keep_scale=0.5)
    texts = [text for each in forget for text in (each.prompt, each.anchor)]
    prompts = encode_prompts(pipe, [*texts, TEXTS[2]], own_size(pipe))
    vectors = dict(zip(prompts.texts, prompts.embeds, strict=True))
    kept = vectors[TEXTS[2]]
    for name, (before, after) in changed.items():
        mat1 = 5.0 * before + 0.5 * before @ kept.T @ kept
        mat2 = 5.0 * torch.eye(12, dtype=torch.float64) + 0.5 * kept.T @ kept
        for each in forget:
            c, t = vectors[each.prompt], vectors[each.anchor]
            ids = pipe.tokenizer([each.prompt, each.anchor], padding="max_length", max_length=24)["input_ids"]
            shared = [place for place, (a, b) in enumerate(zip(*ids, strict=True)) if a == b]
            own = published(before, c[shared], t[shared], kept, 3.0, 1.0, 0.5)
            mat1, mat2 = mat1 + own @ c.T @ c, mat2 + c.T @ c
        assert torch.allclose(after, mat1 @ torch.inverse(mat2), rtol=0, atol=1e-11), name


@pytest.mark.parametrize(("tokens", "first"), [("end", -2), ("all", None)])
def test_more_tokens_than_the_last_can_be_moved(pipe: Any, tokens: str, first: int | None) -> None:
    """Both texts have as many tokens, so that each stands for the one at its place."""
    text, anchor, kept = encode_prompts(pipe, TEXTS, own_size(pipe)).embeds[1:]
    lengths = [len(row) for row in pipe.tokenizer(list(TEXTS))["input_ids"]]
    c, t, p = (each[first and n + first :] for each, n in zip((text, anchor, kept), lengths, strict=True))
    for before, after in edited(pipe, "uce", tokens=tokens).values():
        assert torch.allclose(after, published(before, c, t, p, 0.5, 1.0, 1.0), rtol=0, atol=1e-11)


def test_templates_put_concept_and_anchor_into_sentences(pipe: Any) -> None:
    few = {"forget": untrain.Concept("cat", anchor="dog"), "retain": untrain.Concept("cow")}
    ranks = []
    for templates in (("{}",), ("{}", "a {}", "big {}")):
        result = untrain.unlearn(pipe, method="uce", tokens="last", **{**SETS, **few}, templates=templates)
        ranks.append(result.history[0]["rank"])
    assert ranks == [1, 3]
    for wrong in (("a photo",), ("{} and {}",)):
        with pytest.raises(SettingError, match="template"):
            untrain.unlearn(pipe, method="uce", **{**SETS, **few}, templates=wrong)


def test_what_cannot_show_is_warned_of(pipe: Any) -> None:
    """A causal encoder gives the first token of two texts that begin alike one and the same embedding."""
    task = SETS | {"forget": untrain.Concept("cat", anchor="cow"), "retain": untrain.Concept("dog")}
    with torch.no_grad():
        twin = copy.copy(pipe)
        encoder = copy.deepcopy(pipe.text_encoder)
        encoder.get_input_embeddings().weight.fill_(0.1)  # every word is the same to it
        twin.register_modules(text_encoder=encoder)
    with pytest.warns(UnlearningWarning, match="1 of 1 conditions stay as they are"):
        result = untrain.unlearn(twin, method="uce", **task)
    assert result.warnings


def test_an_anchor_that_is_missing_is_the_empty_text(pipe: Any) -> None:
    changed = edited(pipe, "uce", tokens="last", forget=untrain.Concept(TEXTS[0]))
    embeds = encode_prompts(pipe, TEXTS, own_size(pipe)).embeds
    ids = pipe.tokenizer(list(TEXTS))["input_ids"]
    c, p = (embeds[i + 1][len(ids[i]) - 2][None] for i in (0, 2))
    before, after = next(iter(changed.values()))
    assert torch.allclose(after, published(before, c, embeds[0][:1], p, 0.5, 1.0, 1.0), rtol=0, atol=1e-12)


# What is refused.


def test_other_parts_and_other_models_are_refused(pipe: Any) -> None:
    with pytest.raises(SettingError, match="attn2.to_k.weight.*xattn"):
        edited(pipe, "uce", parts="noxattn")
    assert all(".to_v." in name for name in edited(pipe, "uce", parts=["*.attn2.to_v.weight"]))
    fused = copy.copy(pipe)
    fused.register_modules(unet=copy.deepcopy(pipe.unet))
    fused.unet.fuse_qkv_projections()
    with pytest.raises((ModelError, SettingError)):
        edited(fused, "uce")
    with pytest.raises(SettingError, match="uce.*linear maps"):
        check_runs(make("uce", {}), untrain.Classification())


@pytest.mark.parametrize(
    "wrong",
    [{"lam": 0.0}, {"edit_scale": -1.0}, {"keep_scale": -0.1}, {"tokens": "first"}, {"lam": float("nan")}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    for name in ("uce", "mace-refine"):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            make(name, wrong)
    with pytest.raises(SettingError, match="fuse_lam"):
        replace(make("mace-refine", {}), fuse_lam=0.0)
