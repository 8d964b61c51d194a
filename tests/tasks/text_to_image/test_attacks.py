"""The attacks of an audit, each on a tiny pipeline with random weights."""

import copy

import pytest
import torch

from helpers.small_pipelines import TEXTS, stable_diffusion, stable_diffusion_xl
from untrain.diffusion.text import embed_texts, encode_prompts, own_size, text_encoders
from untrain.engine import Engine, generator_of
from untrain.errors import SettingError, UnknownName
from untrain.models.checkpoints import state_hash
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.adversarial import (
    RelaxedTokens,
    attack_prompts,
    draw_tokens,
    project_on_simplex,
    straight_through,
    usable_tokens,
)
from untrain.tasks.text_to_image.attack_bench import AttackBench, chosen_rows
from untrain.tasks.text_to_image.attack_options import ATTACKS, AttackOptions, budget_of
from untrain.tasks.text_to_image.attack_setup import latents_of
from untrain.tasks.text_to_image.attack_target import AttackTarget
from untrain.tasks.text_to_image.attacks import UNATTACKED, PipelineAttacks
from untrain.tasks.text_to_image.concept_vector import concept_direction, make_pairs, search_tokens
from untrain.tasks.text_to_image.concepts import latent_shape_of, text_task
from untrain.tasks.text_to_image.detectors import Detector, Sighting
from untrain.tasks.text_to_image.glyphs import draw_glyph
from untrain.tasks.text_to_image.inversion import invert
from untrain.tasks.text_to_image.new_words import NewWords, neutral_vectors
from untrain.tasks.text_to_image.relearning import relearn


class Never(Detector):
    """Sees nothing, or everything."""

    name, kind, threshold, hash = "never", "classifier", None, "0"

    def __init__(self, seen=False):
        self.seen = seen

    def check(self, wanted):
        pass

    def look(self, images, wanted):
        return [Sighting(self.seen, None, ()) for _ in images]


def bench_of(pipeline):
    engine = Engine.start("cpu")
    empty = encode_prompts(pipeline, TEXTS, own_size(pipeline))
    how = (latent_shape_of(pipeline), engine, Sampler(2, guidance_scale=2.0), 4, 0)
    return AttackBench(pipeline, text_task(pipeline), empty, *how)


def target_of(bench, count=4, seen=False):
    images = draw_glyph(0).render(count, own_size(bench.pipeline), 0)
    shown = [i % len(TEXTS) for i in range(count)]
    written = ["a red {}", "a red {}", "a blue {}"]
    given = (Never(seen), images, shown, list(range(count)), latents_of(bench, images))
    return AttackTarget("the concept", TEXTS, written, [""] * 3, [None] * 3, *given)


@pytest.fixture(params=[stable_diffusion, stable_diffusion_xl], ids=["sd", "sdxl"])
def bench(request, tmp_path):
    return bench_of(request.param(tmp_path))


# ── the parts ───────────────────────────────────────────────────────────────────────────────────────────────────


def slow_projection(row):
    """The nearest point of the simplex: bisection for the number that, taken off, leaves a sum of 1."""
    low, high = row.min() - 1, row.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp_min(0).sum() > 1 else (low, middle)
    return (row - high).clamp_min(0)


def test_projection_on_the_simplex_is_the_nearest_point():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 5, 40, generator=g, dtype=torch.float64) * torch.tensor([0.01, 1.0, 30.0])[:, None, None]
    found = project_on_simplex(rows)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    for row, mine in zip(rows.flatten(0, 1), found.flatten(0, 1), strict=True):
        torch.testing.assert_close(mine, slow_projection(row), atol=1e-12, rtol=0)
    torch.testing.assert_close(project_on_simplex(found), found)


def test_straight_through_gives_rows_of_the_table_and_the_gradient_of_a_product():
    g = torch.Generator().manual_seed(0)
    table = torch.randn(7, 3, generator=g)
    rows = torch.rand(2, 4, 7, generator=g).softmax(-1).requires_grad_()
    tokens = draw_tokens(rows, [torch.Generator().manual_seed(i) for i in range(2)])
    found = straight_through(rows, tokens, table)
    assert torch.equal(found, table[tokens]), "forward: whole tokens, to the bit"
    weights = torch.randn(found.shape, generator=g)
    (found * weights).sum().backward()
    torch.testing.assert_close(rows.grad, weights @ table.T)


def test_tokens_are_drawn_as_often_as_their_rows_say():
    rows = torch.tensor([0.5, 0.0, 0.2, 0.3]).expand(1, 4000, 4)
    tokens = draw_tokens(rows, [torch.Generator().manual_seed(0)])
    shares = torch.bincount(tokens.flatten(), minlength=4) / 4000
    assert torch.allclose(shares, rows[0, 0], atol=0.03) and shares[1] == 0
    one = torch.tensor([0.0, 0.0, 1.0]).expand(1, 50, 3)
    assert draw_tokens(one, [torch.Generator().manual_seed(1)]).unique().tolist() == [2]


def test_relaxed_tokens_find_the_token_whose_embedding_is_wanted():
    table, wanted = torch.eye(30), torch.tensor([[4, 17], [22, 9]])
    tokens = RelaxedTokens([table], torch.arange(30), 2, 2)
    assert torch.equal(tokens.rows.detach(), torch.full((2, 2, 30), 1 / 30))

    def descend(vectors, t):
        tokens.rows.grad = None
        (vectors[0] - table[wanted]).square().sum().backward()

    def look(vectors, asked):
        return ((vectors[0] == table[wanted]).flatten(1).all(1)) & asked

    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    over, found = attack_prompts(tokens, descend, look, generators, range(20), 20)
    assert over.all() and torch.equal(found, wanted)


def test_new_words_are_spare_and_change_nothing_else(bench):
    pipeline, encoders = bench.pipeline, text_encoders(bench.pipeline)
    before = [state_hash(encoder) for encoder in encoders]
    words = NewWords(pipeline, 2, TEXTS)
    assert len(set(words.words)) == 2 and not set(words.words) & {w for text in TEXTS for w in text.split()}
    vectors = [torch.randn(1, 2, table.embedding_dim, dtype=torch.float64) for table in words.tables]
    told = words.embed([f"a red {words.words[1]}", "a red circle"], vectors)["embeds"]
    plain = embed_texts(pipeline, [f"a red {words.words[1]}", "a red circle"])["embeds"]
    assert not torch.allclose(told[0], plain[0]) and torch.equal(told[1], plain[1])
    own = [table.weight[[n[i] for n in words.numbers]][None] for i, table in enumerate(words.tables)]
    assert torch.equal(words.embed([f"a red {words.words[1]}"], own)["embeds"], plain[:1]), (
        "its own row is the plain word"
    )
    assert [state_hash(encoder) for encoder in encoders] == before
    with pytest.raises(SettingError, match="no prompt uses"):
        NewWords(pipeline, 27, TEXTS)
    with pytest.raises(SettingError, match="circle"):
        neutral_vectors(pipeline, "circle")


def test_glyphs_are_of_their_seeds_and_vary():
    one = draw_glyph(3).render(3, 32, 0)
    assert one.shape == (3, 3, 32, 32) and torch.equal(one, draw_glyph(3).render(3, 32, 0))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one, draw_glyph(4).render(3, 32, 0))


def test_budgets_are_published_for_large_latents_and_less_for_small_ones():
    full, small = (budget_of(AttackOptions(), side, nudity=False) for side in (64, 8))
    assert (full.inversion_steps, full.inversion_rate, full.timesteps, full.relearning_rate) == (1000, 5e-3, 50, 1e-5)
    assert (full.tokens, full.side_by_side, full.relearning_steps) == (3, 1, (10, 50, 100))
    assert small.inversion_steps * small.inversion_rate == full.inversion_steps * full.inversion_rate
    assert budget_of(AttackOptions(), 128, nudity=True).tokens == 5 and small.side_by_side == small.prompts == 20
    assert budget_of(AttackOptions(inversion_steps=7), 8, nudity=False).inversion_steps == 7


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"attacks": ["plain", "inversoin"]}, UnknownName, "inversion"),
        ({"attacks": ["inversion"]}, SettingError, "plain"),
        ({"template": "a photo"}, SettingError, "a photo"),
        ({"placebo_label": "cat"}, SettingError, "placebo_images"),
        ({"images": 0}, SettingError, "images"),
    ],
)
def test_wrong_options_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        AttackOptions(**given)


# ── the attacks ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_inversion_learns_one_vector_alone(bench):
    target, unet = target_of(bench), bench.pipeline.unet
    parts = [unet, bench.pipeline.vae, *text_encoders(bench.pipeline)]
    before, asked = [state_hash(part) for part in parts], [p.requires_grad for part in parts for p in part.parameters()]
    word = NewWords(bench.pipeline, 1, TEXTS)
    how = {"rate": 0.05, "batch_size": 4, "start": None, "seed": 0, "label": "inversion"}
    start = neutral_vectors(bench.pipeline, None)
    with bench.frozen(unet):
        ends = [invert(bench, unet, target, word, steps=steps, **how) for steps in (3, 3)]
    for a, b, first in zip(*ends, start, strict=True):
        assert torch.equal(a, b) and a.shape == first.shape and not torch.allclose(a, first)
    assert [state_hash(part) for part in parts] == before
    assert [p.requires_grad for part in parts for p in part.parameters()] == asked


def test_inversion_lowers_the_loss_of_its_images(tmp_path):
    bench = bench_of(stable_diffusion(tmp_path))
    target, unet = target_of(bench), bench.pipeline.unet
    word = NewWords(bench.pipeline, 1, TEXTS)

    def loss(vectors):
        texts = [target.written[i].replace("{}", word.words[0]) for i in target.shown]
        batch = bench.rows(target, range(4), word.embed(texts, vectors))
        many = {name: value.repeat(25, *[1] * (value.ndim - 1)) for name, value in batch.items()}
        drawn = bench.task.draw(many, torch.Generator().manual_seed(5), "forget")
        return bench.losses(unet, drawn).mean().item()

    how = {"rate": 0.1, "batch_size": 4, "start": None, "seed": 0, "label": "inversion"}
    with bench.frozen(unet), torch.no_grad():
        before = loss(neutral_vectors(bench.pipeline, None))
    with bench.frozen(unet):
        vectors = invert(bench, unet, target, word, steps=40, **how)
        with torch.no_grad():
            assert loss(vectors) < before


def test_the_adversarial_loss_is_the_pipelines_training_loss(bench):
    """With the words' own rows in place of relaxed ones, the loss is that of the plain text as training has it."""
    target, unet = target_of(bench), bench.pipeline.unet
    words = NewWords(bench.pipeline, 2, TEXTS)
    own = [table.weight[[n[i] for n in words.numbers]][None] for i, table in enumerate(words.tables)]
    texts = [f"{' '.join(words.words)} {TEXTS[i]}" for i in target.shown]
    prompts = encode_prompts(bench.pipeline, texts, own_size(bench.pipeline))
    numbers = torch.tensor([prompts.number(text) for text in texts])
    mean, std = target.posterior.unbind(1)
    trained = {"latent_mean": mean, "latent_std": std, "label": numbers, **prompts.rows(numbers, numbers)}
    attacked = bench.rows(target, range(4), words.embed(texts, own))
    losses = []
    with bench.frozen(unet):
        for batch in (trained, attacked):
            drawn = bench.task.draw(batch, torch.Generator().manual_seed(1), "forget")
            losses.append(bench.task.loss(unet, drawn) if batch is trained else bench.losses(unet, drawn))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_every_step_of_relearning_has_its_own_gradient(tmp_path):
    """Against Adam by hand: gradients of earlier steps must not be left in `.grad`."""
    bench = bench_of(stable_diffusion(tmp_path))
    target, unet = target_of(bench), bench.pipeline.unet
    how = {"rate": 1e-3, "batch_size": 4, "seed": 0, "label": "relearning"}
    with bench.frozen(unet):
        [(_, found)] = relearn(bench, unet, target, stops=[3], **how)
        slow, generator = copy.deepcopy(unet), generator_of(0, "relearning")
        weights = [weight.requires_grad_() for weight in slow.parameters()]
        optimizer, prompts = torch.optim.Adam(weights, 1e-3), bench.embed(target.prompts)
        for _ in range(3):
            chosen = torch.randperm(4, generator=generator).tolist()
            texts = chosen_rows(prompts, [target.shown[i] for i in chosen])
            drawn = bench.task.draw(bench.rows(target, chosen, texts), generator, "forget")
            optimizer.zero_grad()
            bench.task.loss(slow, drawn).mean().backward()
            optimizer.step()
    for one, other in zip(found.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_relearning_trains_a_copy(bench):
    target, unet = target_of(bench), bench.pipeline.unet
    before = state_hash(unet)
    with bench.frozen(unet):
        found = relearn(bench, unet, target, stops=[1, 3], rate=1e-3, batch_size=2, seed=0, label="relearning")
        hashes = {steps: state_hash(copied) for steps, copied in found}
    assert len({before, *hashes.values()}) == 3 and [*hashes] == [1, 3] and state_hash(unet) == before


def test_every_attack_leaves_the_original_as_it_was_and_repeats(tmp_path):
    bench = bench_of(stable_diffusion(tmp_path).to(torch.float32))
    unet, parts = bench.pipeline.unet, [bench.pipeline.unet, bench.pipeline.vae, *text_encoders(bench.pipeline)]
    more = {"timesteps": 2, "timestep_steps": 2, "relearning_steps": [1, 2], "tokens_found": 4, "generations": 2}
    options = AttackOptions(attacks=[*ATTACKS], images=4, samples=3, inversion_steps=2, prompts=3, **more)
    attacks = PipelineAttacks(bench, target_of(bench), options, budget_of(options, 8, nudity=False), 0)
    before = [state_hash(part) for part in parts]
    found = [{name: attacks.run(name, unet, "original") for name in ATTACKS} for _ in range(2)]
    assert [state_hash(part) for part in parts] == before
    names = {key: len(values) for each in found[0].values() for key, values in each.signals.items()}
    wanted = {"plain": 3, "inversion": 3, UNATTACKED: 3, "adversarial": 3, "relearning-1": 3, "relearning-2": 3}
    assert names == wanted | {"concept-vector": 3}
    for name in ATTACKS:
        for (_, a, _), (_, b, _) in zip(found[0][name].pictures, found[1][name].pictures, strict=True):
            assert torch.equal(a, b), name


def test_prompts_that_succeed_alone_are_not_attacked(tmp_path):
    bench = bench_of(stable_diffusion(tmp_path).to(torch.float32))
    options = AttackOptions(images=3, samples=2, prompts=3)
    attacks = PipelineAttacks(bench, target_of(bench, seen=True), options, budget_of(options, 8, nudity=False), 0)
    found = attacks.run("adversarial", bench.pipeline.unet, "original")
    assert found.signals[UNATTACKED].tolist() == [1, 1, 1]
    assert torch.isnan(torch.from_numpy(found.signals["adversarial"])).all() and not found.pictures


def test_a_search_on_the_text_encoder_comes_near_its_aim(tmp_path):
    pairs = make_pairs(["a red circle"], ["a red square"])
    assert len(pairs[0]) == 20 and pairs[1][1] == "a photo of a red square"
    table = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(concept_direction(table[:2, None], table[2:4, None])[0], (table[:2] - table[2:4]).mean(0))
    wanted = torch.tensor([3, 8, 1])
    found = search_tokens(lambda t: table[t], table[wanted], torch.arange(12), 3, 40, torch.Generator().manual_seed(0))
    assert torch.equal(found, wanted)


def test_special_tokens_are_not_used(tmp_path):
    tokenizer = stable_diffusion(tmp_path).tokenizer
    known = usable_tokens(tokenizer)
    assert len(known) == len(tokenizer) - 2 and not {0, 1} & set(known.tolist())
