"""The task of class-conditional generators: its losses against the papers' formulas, what is drawn, what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from helpers.references import fisher_sample_by_sample
from helpers.small_generators import TASK, denoiser, pictures
from untrain.errors import DataError, ModelError, SettingError
from untrain.fisher import fisher_diagonal
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.embeddings import embedded_classes
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.types import GenerativeTask, Task

KINDS = ("unet", "dit", "dit-learned")


def raw(count=6, labels=(0, 1, 2)):
    x, y = pictures(count, 1, list(labels)).tensors
    return {"input": x, "label": y, "index": torch.arange(count) + 50}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def prepared(model, task=TASK):
    return task.prepare(model, task.draw(raw(), generator(), "evaluate"))


def drawn(task, role="forget", count=6, seed=0):
    return task.draw(raw(count), generator(seed), role)


class Fixed(nn.Module):
    """Whatever it is asked, it gives the same [B, C, H, W]."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x, t, class_labels):
        return self.output


class Own(nn.Module):
    """A user's generator of three classes, whose embedding has so many rows."""

    def __init__(self, rows):
        super().__init__()
        self.table, self.last = nn.Embedding(rows, 1), nn.Conv2d(1, 1, 3, padding=1)
        self.double()

    def forward(self, x, t, class_labels):
        return self.last(x) + self.table(class_labels)[:, :, None, None]


def test_the_class_for_no_class_is_tried():
    """A module tells nothing of its classes: it is asked for the last one, and for the one that means none."""
    told = replace(TASK, num_classes=3)
    assert prepared(Own(4), told).null_class == 3
    assert prepared(Own(4), told).drop == TASK.drop
    with pytest.raises(ModelError, match="no class that stands for .*class_labels=3.*4 rows.*drop=0"):
        prepared(Own(3), told)
    without = prepared(Own(3), replace(told, drop=0.0))
    assert (without.num_classes, without.null_class) == (3, None)
    assert prepared(Own(3), replace(told, null_class=0)).null_class == 0
    with pytest.raises(ModelError, match="class_labels=5"):
        prepared(Own(4), replace(told, drop=0.0, null_class=5))
    with pytest.raises(ModelError, match="asked for class 6, the last of num_classes=7"):
        prepared(Own(4), replace(told, num_classes=7))
    assert not Own(4).table._forward_pre_hooks


def test_it_is_a_task_of_generators():
    assert isinstance(TASK, Task)
    assert isinstance(TASK, GenerativeTask)


# The loss.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_pure_and_of_each_sample_alone(kind, reduction):
    model = denoiser(kind).eval()
    task = prepared(model, replace(TASK, reduction=reduction))
    batch = drawn(task)
    before = {key: value.clone() for key, value in batch.items()}
    losses = task.loss(model, batch)
    assert losses.shape == (6,)
    assert torch.equal(losses, task.loss(model, batch))
    assert all(torch.equal(value, before[key]) for key, value in batch.items())
    for i in range(6):
        alone = task.loss(model, {key: value[i : i + 1] for key, value in batch.items()})
        assert alone.item() == pytest.approx(losses[i].item(), rel=1e-10)
    state = torch.get_rng_state()
    task.loss(model.train(), batch)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn where the model has no dropout"


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_the_loss_is_the_squared_error_of_the_noise(kind):
    """x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε, with ᾱ of a linear schedule, in float32 as diffusers makes it."""
    model = denoiser(kind).eval()
    task = prepared(model)
    batch, kept = drawn(task), 1.0
    alphas = []
    for beta in torch.linspace(1e-4, 0.3, 20, dtype=torch.float32).tolist():
        kept *= 1 - beta
        alphas.append(kept)
    for i, loss in enumerate(task.loss(model, batch)):
        x, noise, t, c = (batch[key][i : i + 1] for key in ("input", "noise", "timestep", "label"))
        a = alphas[int(t)]
        predicted = model(math.sqrt(a) * x + math.sqrt(1 - a) * noise, t, class_labels=c).sample
        assert loss.item() == pytest.approx((predicted - noise).square().mean().item(), rel=1e-9)


def slow_hybrid(task, noise, variance, batch, i, cdf):
    """L_simple + L_t of sample i in bits a pixel, pixel by pixel and from the definitions of the papers.

    Ho et al. 2020, eqs. 6 and 7 (the posterior), Nichol & Dhariwal 2021, eq. 15 (the variance between β̃_t and β_t) and
    eq. 4 with Ho et al. eq. 13 (the first step, a whole number of 255 levels).
    """
    T, t = task.timesteps, int(batch["timestep"][i])
    betas = torch.linspace(task.beta_start, task.beta_end, T, dtype=torch.float32).double()
    bar = [1.0]
    for beta in betas:
        bar.append(bar[-1] * (1 - float(beta)))  # bar[s] is ᾱ after s steps; timestep t is step t + 1

    def posterior_variance(s):
        return float(betas[s]) * (1 - bar[s]) / (1 - bar[s + 1])

    low = posterior_variance(max(t, 1))  # of the first step it is 0; the code of the papers takes the second's
    a, before, beta, total = bar[t + 1], bar[t], float(betas[t]), 0.0
    pixels = zip(*(v[i].flatten().tolist() for v in (batch["input"], batch["noise"], noise, variance)), strict=True)
    count = 0
    for x, eps, guess, v in pixels:
        seen = math.sqrt(a) * x + math.sqrt(1 - a) * eps
        clean = (seen - math.sqrt(1 - a) * guess) / math.sqrt(a)
        means = [
            (math.sqrt(before) * beta * y + math.sqrt(1 - beta) * (1 - before) * seen) / (1 - a) for y in (x, clean)
        ]
        share = (v + 1) / 2
        std = math.exp((share * math.log(beta) + (1 - share) * math.log(low)) / 2)
        if t:
            nats = float(kl_divergence(Normal(means[0], math.sqrt(low)), Normal(means[1], std)))
        else:
            up = 1.0 if x > 0.999 else cdf((x + 1 / 255 - means[1]) / std)
            down = 0.0 if x < -0.999 else cdf((x - 1 / 255 - means[1]) / std)
            nats = -math.log(max(up - down, 1e-12))
        total += (guess - eps) ** 2 + nats / math.log(2)
        count += 1
    return total / count


def exact(z):
    """Φ(z)."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def approximate(z):
    """Φ(z) as public diffusion code approximates it."""
    return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def variance_case(seed=0, t=(0, 1, 2, 10, 19, 0), error=0.3):
    """A batch of whole levels at chosen timesteps, and a model's noise and variance for it."""
    g = generator(seed)
    task = replace(TASK, learned_variance=True, num_classes=3, null_class=3)
    batch = drawn(task)
    levels = torch.randint(0, 256, batch["input"].shape, generator=g)
    levels[5] = torch.where(levels[5] < 128, 0, 255)  # both outer levels
    batch |= {"input": levels.double() / 127.5 - 1, "timestep": torch.tensor(t)}
    noise = batch["noise"] + error * torch.randn(batch["noise"].shape, generator=g, dtype=torch.float64)
    variance = 2 * torch.rand(noise.shape, generator=g, dtype=torch.float64) - 1
    return task, batch, noise, variance


def test_the_hybrid_loss_equals_the_papers_formulas():
    """1e-6: the schedule's β in float32, of which small differences are taken; the rest in float64."""
    task, batch, noise, variance = variance_case()
    losses = task.loss(Fixed(torch.cat([noise, variance], 1)), batch)
    for i, loss in enumerate(losses.tolist()):
        assert loss == pytest.approx(slow_hybrid(task, noise, variance, batch, i, exact), rel=1e-6)
    summed = replace(task, reduction="sum").loss(Fixed(torch.cat([noise, variance], 1)), batch)
    assert torch.allclose(summed, 64 * losses, rtol=1e-12)


def test_the_hybrid_loss_has_the_units_of_public_code():
    """That of DiT takes MSE and bound, each a mean over pixels, the bound in bits and unscaled: λ L_vlb with λ = 1/T.
    It differs in Φ alone, which it approximates, and so in the first timestep alone, here by less than 1 in 1,000."""
    task, batch, noise, variance = variance_case()
    for i, loss in enumerate(task.loss(Fixed(torch.cat([noise, variance], 1)), batch).tolist()):
        other = slow_hybrid(task, noise, variance, batch, i, approximate)
        assert loss == pytest.approx(other, rel=1e-3 if int(batch["timestep"][i]) == 0 else 1e-6)


def test_a_perfect_prediction_has_no_divergence_left():
    """Mean and variance of the posterior: KL 0 beyond the first timestep."""
    task, batch, _, _ = variance_case(t=(1, 3, 7, 12, 19, 5))
    output = torch.cat([batch["noise"], -torch.ones_like(batch["noise"])], 1)
    assert task.loss(Fixed(output), batch).abs().max() < 1e-9


def test_no_gradient_of_the_bound_reaches_the_mean():
    task, batch, noise, variance = variance_case()
    model = Fixed(torch.cat([noise, variance], 1))
    (found,) = torch.autograd.grad(task.loss(model, batch).sum(), model.output)
    plain = 2 * (noise - batch["noise"]) / 64  # of the squared error alone
    assert torch.allclose(found[:, :1], plain, rtol=1e-12)
    assert (found[:, 1:] != 0).any(dim=(1, 2, 3)).all(), "the variance learns from every timestep"


def test_the_bounds_gradient_is_that_of_finite_differences():
    task, batch, noise, variance = variance_case()
    output = torch.cat([noise, variance], 1)
    model = Fixed(output)
    (found,) = torch.autograd.grad(task.loss(model, batch).sum(), model.output)
    for i in (0, 1, 3, 5):
        for pixel in ((1, 0, 0), (1, 5, 3)):
            losses = []
            for shift in (1e-5, -1e-5):
                moved = output.clone()
                moved[(i, *pixel)] += shift
                losses.append(task.loss(Fixed(moved), batch)[i].item())
            slope = (losses[0] - losses[1]) / 2e-5
            assert found[(i, *pixel)].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_equals_one_backward_pass_a_sample(kind):
    """Several draws of timestep and noise per image, through attention and group normalisation."""
    model = denoiser(kind)
    task = prepared(model)
    batches = [drawn(task, "fisher", 5, seed) for seed in range(3)]
    found, expected = fisher_diagonal(model, task, batches), fisher_sample_by_sample(model, task, batches)
    assert found.keys() == expected.keys()
    largest = max(value.max() for value in expected.values())
    for name, value in expected.items():
        # float64, sums in another order; of a key's bias the gradient is 0 but for rounding
        assert (found[name] - value).abs().max() <= 1e-9 * value.max() + 1e-20 * largest, name


# What is drawn.


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_antithetic_timesteps_come_in_pairs(count):
    task = replace(TASK, timesteps=1000)
    t = drawn(task, count=count)["timestep"]
    half = (count + 1) // 2
    assert torch.equal(t[half:], 999 - t[: count - half])


@pytest.mark.parametrize("draws", ["antithetic", "uniform"])
def test_timesteps_are_evenly_spread(draws):
    task = replace(TASK, draws=draws)
    t = drawn(task, count=20000)["timestep"]
    counts = t.bincount(minlength=20)
    assert len(counts) == 20
    # 1,000 each; five standard deviations
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)
    pairs = (t[:10000] + t[10000:] == 19).double().mean()
    assert pairs == 1 if draws == "antithetic" else pairs < 0.1


@pytest.mark.parametrize("role", ["train", "retain", "forget", "fisher", "evaluate"])
def test_conditions_are_dropped_in_training_and_retaining_alone(role):
    task = replace(TASK, num_classes=3, null_class=3, drop=0.2)
    batch = drawn(task, role, count=5000)
    dropped = batch["condition"] == 3
    if role in ("train", "retain"):
        assert 0.17 < float(dropped.double().mean()) < 0.23
    else:
        assert not dropped.any()
    assert torch.equal(batch["condition"][~dropped], batch["label"][~dropped])
    assert torch.equal(task.condition(batch), raw(5000)["label"]), "a dropped condition is still the sample's"


def test_whole_numbers_become_pixels_from_minus_one_to_one():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    batch = TASK.draw({"input": images, "label": torch.zeros(3, dtype=torch.int64)}, generator(), "train")
    assert batch["input"][:, 0, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])
    assert batch["input"].dtype == torch.get_default_dtype()


@pytest.mark.parametrize("role", ["train", "retain", "forget", "fisher", "evaluate"])
def test_images_are_mirrored_where_a_step_learns_from_them(role):
    task, images = replace(TASK, flip=True), raw(400)["input"]
    found = drawn(task, role, count=400)["input"]
    same, mirrored = ((found == other).flatten(1).all(1) for other in (images, images.flip(-1)))
    assert (same | mirrored).all()
    if role in ("fisher", "evaluate"):
        assert same.all()
    else:
        assert 0.4 < float(mirrored.double().mean()) < 0.6


def latents(count=400):
    g = generator(7)
    parts = {key: torch.randn(count, 2, 4, 4, generator=g) for key in ("latent_mean", "mirrored_mean")}
    stds = {key: 0.5 + torch.rand(count, 2, 4, 4, generator=g) for key in ("latent_std", "mirrored_std")}
    return {**parts, **stds, "label": torch.arange(count) % 3, "index": torch.arange(count)}


def test_latents_are_sampled_once_and_mirrored():
    """The same draw is what student, teacher and a second look see; over draws it has the posterior's moments."""
    task, batch = replace(TASK, flip=True), latents()
    first = task.draw(batch, generator(), "train")
    assert set(first) == {"input", "label", "condition", "timestep", "noise", "index"}
    own, other = (
        (first["input"] - batch[f"{name}_mean"]) / batch[f"{name}_std"] for name in ("latent", "mirrored")
    )  # of the right one of the two, standard normal
    mirrored = other.square().flatten(1).mean(1) < own.square().flatten(1).mean(1)
    assert 0.4 < float(mirrored.double().mean()) < 0.6
    noise = torch.where(mirrored[:, None, None, None], other, own)
    assert abs(float(noise.mean())) < 0.04
    assert 0.95 < float(noise.std()) < 1.05
    assert torch.equal(first["input"], task.draw(batch, generator(), "train")["input"])
    still = task.draw(batch, generator(), "evaluate")["input"]
    assert abs(float(((still - batch["latent_mean"]) / batch["latent_std"]).std()) - 1) < 0.05


def test_what_was_drawn_can_be_drawn_anew():
    """The images stay, the rest is new: so methods put other images in."""
    task = replace(TASK, num_classes=3, null_class=3, drop=0.5)
    first = drawn(task, "train")
    again = task.draw(first, generator(1), "forget")
    assert torch.equal(again["input"], first["input"])
    assert torch.equal(again["condition"], first["label"])
    assert not torch.equal(again["noise"], first["noise"])


def test_a_batch_is_moved_to_other_timesteps():
    batch = drawn(TASK)
    steps, seen = torch.arange(6), torch.zeros(6, 1, 8, 8, dtype=torch.float64)
    moved = TASK.at(batch, steps)
    kept = TASK.alphas_cumprod[steps][:, None, None, None]
    assert torch.allclose(TASK.noisy(moved), kept.sqrt() * batch["input"] + (1 - kept).sqrt() * batch["noise"])
    there = TASK.at(batch, steps, seen)
    assert torch.equal(TASK.noisy(there), seen)
    assert torch.equal(TASK.noisy(TASK.at(there, steps)), TASK.noisy(moved)), "noised again, not seen"
    assert "seen" not in batch


# Other conditions.


def test_the_next_class_is_the_redirected_one():
    task = replace(TASK, num_classes=3, null_class=3)
    assert task.variant(drawn(task), "redirect")["condition"].tolist() == [1, 2, 0, 1, 2, 0]


def test_a_random_class_is_another_one_and_stays():
    task = replace(TASK, num_classes=5, redirect="random", seed=1)
    batch = drawn(task, count=300)
    found = task.variant(batch, "redirect")["condition"]
    assert (found != batch["label"]).all()
    assert (found < 5).all()
    shifts = ((found - batch["label"]) % 5).bincount(minlength=5)
    assert shifts[1:].min() > 50
    swapped = {key: value.flip(0) for key, value in batch.items()}
    assert torch.equal(task.variant(swapped, "redirect")["condition"], found.flip(0))
    assert not torch.equal(replace(task, seed=2).variant(batch, "redirect")["condition"], found)


def test_no_class_is_the_one_after_the_last():
    task = prepared(denoiser())
    batch = task.variant(drawn(task), "unconditional")
    assert batch["condition"].tolist() == [3] * 6
    assert torch.equal(batch["label"], raw()["label"])
    with pytest.raises(SettingError, match="no class"):
        replace(task, null_class=None).variant(drawn(task), "unconditional")
    with pytest.raises(SettingError, match="two classes"):
        replace(task, num_classes=1).variant(drawn(task), "redirect")


@pytest.mark.parametrize("kind", KINDS)
def test_the_redirect_loss_asks_both_about_one_noised_image(kind):
    model, teacher = denoiser(kind).eval(), denoiser(kind, 1).eval()
    task = prepared(model)
    batch = drawn(task, "train", seed=3)
    seen = task.noisy(batch)
    target = teacher(seen, batch["timestep"], class_labels=(batch["label"] + 1) % 3).sample[:, :1]
    found = model(seen, batch["timestep"], class_labels=batch["label"]).sample[:, :1]
    losses = task.redirect_loss(model, batch, teacher)
    assert torch.allclose(losses, (found - target).square().mean((1, 2, 3)), rtol=1e-10)
    losses.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_divergence_is_the_squared_distance_of_predictions():
    a, b = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    assert torch.allclose(TASK.divergence(a, b), (a - b).square().mean((1, 2, 3)))
    assert torch.allclose(replace(TASK, reduction="sum").divergence(a, b), (a - b).square().sum((1, 2, 3)))
    assert not TASK.divergence(a, a).any()


def test_the_surrogate_is_uniform_noise_under_the_same_class():
    task = replace(TASK, num_classes=3, null_class=3)
    batch = drawn(task, "forget", count=600)
    found = task.surrogate(batch, generator(5))
    assert torch.equal(found["condition"], batch["label"])
    x = found["input"]
    assert x.shape == batch["input"].shape
    assert x.dtype == batch["input"].dtype
    assert -1 <= float(x.min()) < -0.99
    assert 0.99 < float(x.max()) <= 1
    # over 38,400 values, five standard deviations
    assert abs(float(x.mean())) < 5 * math.sqrt(1 / 3 / 38400)
    assert float(x.square().mean()) == pytest.approx(1 / 3, abs=0.01)
    assert torch.equal(x, task.surrogate(batch, generator(5))["input"])


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_made_with_guidance_each_from_its_own_noise(kind):
    """A batch of two gives what each gives alone; the model's modes come back."""
    model = denoiser(kind).train()
    task = prepared(model)
    sampler = Sampler(steps=4, eta=1.0, guidance_scale=2.5)
    whole = {**task.blank(torch.tensor([0, 2]), (1, 8, 8)), "input": torch.zeros(2, 1, 8, 8).double()}
    both = task.generate(model, whole, [generator(0), generator(1)], sampler)
    assert model.training
    assert both.abs().max() <= 1
    for i in range(2):
        alone = {key: value[i : i + 1] for key, value in whole.items()}
        assert torch.allclose(task.generate(model, alone, [generator(i)], sampler), both[i : i + 1], atol=1e-9)
    half = task.generate(model, whole, [generator(0), generator(1)], replace(sampler, eta=0.0), until=5)
    assert not torch.equal(half, both)


# What is refused.


def test_classes_are_read_off_the_model():
    assert [embedded_classes(denoiser(kind)) for kind in KINDS] == [4, 4, 4]
    found = prepared(denoiser())
    assert (found.num_classes, found.null_class, found.learned_variance) == (3, 3, False)
    assert prepared(denoiser("dit-learned")).learned_variance is True
    all_four = prepared(denoiser(), replace(TASK, num_classes=4))
    assert (all_four.num_classes, all_four.null_class, all_four.drop) == (4, None, 0.0)


def test_a_model_without_classes_is_refused():
    from diffusers import UNet2DModel

    plain = UNet2DModel(8, 1, 1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
                        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2).double()  # fmt: skip
    with pytest.raises(ModelError, match="UNet2DModel has no embedding of classes"):
        prepared(plain)
    with pytest.raises(ModelError, match="cannot be called as model"):
        prepared(plain, replace(TASK, num_classes=3))


def test_more_classes_than_the_model_has_are_refused():
    with pytest.raises(ModelError, match="knows 4 classes, but 7"):
        prepared(denoiser(), replace(TASK, num_classes=7))
    with pytest.raises(ModelError, match="“no class” as 9"):
        prepared(denoiser(), replace(TASK, null_class=9))


def test_images_of_another_shape_are_refused():
    model = denoiser()
    batch = drawn(TASK)
    wide = {**batch, "input": batch["input"].expand(6, 3, 8, 8), "noise": batch["noise"].expand(6, 3, 8, 8)}
    with pytest.raises(ModelError, match=r"on x of shape \(6, 3, 8, 8\)"):
        TASK.prepare(model, wide)
    with pytest.raises(ModelError, match=r"gives \[6, 1, 4, 4\] for \[6, 1, 8, 8\]"):
        replace(TASK, num_classes=3).prepare(Fixed(torch.zeros(6, 1, 4, 4)), batch)
    with pytest.raises(ModelError, match="learned_variance is True"):
        prepared(model, replace(TASK, learned_variance=True))
    odd = {key: value[..., :7] if value.ndim == 4 else value for key, value in batch.items()}
    with pytest.raises(ModelError, match=r"\(6, 1, 8, 7\)"):
        TASK.prepare(model, odd)


@pytest.mark.parametrize("label", [-1, 3, 7])
def test_labels_outside_the_models_classes_are_refused(label):
    task = prepared(denoiser())
    with pytest.raises(DataError, match=rf"label {label} lies outside the model's 3 classes"):
        task.draw({**raw(), "label": torch.tensor([0, 1, 2, 0, label, 1])}, generator(), "train")


def test_labels_that_are_no_whole_numbers_are_refused():
    for labels in (torch.rand(6), torch.zeros(6, 2, dtype=torch.int64)):
        with pytest.raises(DataError, match="whole numbers"):
            TASK.draw({**raw(), "label": labels}, generator(), "train")


def test_data_without_images_or_labels_are_refused_and_other_names_mapped():
    for missing in ("input", "label"):
        with pytest.raises(DataError, match="map names"):
            TASK.draw({key: value for key, value in raw().items() if key != missing}, generator(), "train")
    named = {"pixels": raw()["input"], "class": raw()["label"]}
    task = replace(TASK, names={"pixels": "input", "class": "label"})
    assert torch.equal(task.draw(named, generator(), "train")["input"], raw()["input"])


@pytest.mark.parametrize(
    "wrong",
    [{"drop": 1.0}, {"drop": -0.1}, {"timesteps": 0}, {"beta_start": 0.0}, {"beta_start": 0.5}, {"beta_end": 1.0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match="drop must be"):
        ClassDiffusion(**wrong)


def test_a_redirected_class_is_so_many_further():
    task = replace(TASK, num_classes=5, shift=3)
    batch = {"label": torch.tensor([0, 1, 4]), "condition": torch.tensor([0, 5, 4]), "index": torch.arange(3)}
    assert task.variant(batch, "redirect")["condition"].tolist() == [3, 4, 2]
    with pytest.raises(SettingError, match="shift=5 leads back"):
        replace(task, shift=5).variant(batch, "redirect")
