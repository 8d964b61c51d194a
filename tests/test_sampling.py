"""The samplers against those of diffusers, which write the same formulas otherwise, and in closed form."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from untrain.errors import SettingError
from untrain.sampling import Sampler, denoise, noise_of
from untrain.tasks.class_diffusion.task import ClassDiffusion

T = 40
EXACT = {"rtol": 1e-10, "atol": 1e-10}
"""float64; the formulas are joined otherwise, so they differ in the last digits, which small ᾱ amplifies."""


def curve(total=T):
    return ClassDiffusion(timesteps=total, beta_end=0.2).alphas_cumprod


def predict(x, t):
    """A made-up noise predictor, not linear in x, large enough that guesses of x₀ leave [−1, 1]."""
    return torch.tanh(1.3 * x + t / T) + 0.3 * x.roll(1, -1)


def start(seed=0):
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Noises:
    """The same noises for both samplers, one after the other."""

    def __init__(self, seed=1):
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = 0

    def __call__(self):
        self.drawn += 1
        return torch.randn(3, 2, 4, 4, generator=self.generator, dtype=torch.float64)


def in_double(scheduler):
    """diffusers computes its schedule in float32; this gives it ours, as wide as the test's images."""
    scheduler.alphas_cumprod, scheduler.betas = curve(), 1 - curve() / torch.cat([torch.ones(1), curve()[:-1]])
    for name in ("one", "final_alpha_cumprod"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, torch.tensor(1.0, dtype=torch.float64))
    return scheduler


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 8, 10, T])
def test_it_is_ddim_of_diffusers(steps, eta, clip):
    """Leading spacing, of steps that divide T: where they do not, theirs leaves out the noisiest timesteps."""
    scheduler = in_double(DDIMScheduler(T, beta_end=0.2, clip_sample=clip))
    scheduler.set_timesteps(steps)
    sampler, noises = Sampler(steps, eta), Noises()
    assert scheduler.timesteps.tolist() == sampler.visited(T)
    theirs, clipped = start(), False
    for t in scheduler.timesteps:
        noise = noises() if t > 0 else torch.zeros(3, 2, 4, 4)
        out = scheduler.step(
            predict(theirs, int(t)), t, theirs, eta, use_clipped_model_output=True, variance_noise=noise
        )
        clipped |= bool((out.pred_original_sample.abs() == 1).any())
        theirs = out.prev_sample
    ours = denoise(predict, start(), curve(), sampler, noise=Noises(), clip=clip)
    assert clipped == clip, "the example must reach the bounds, or clipping is not tested"
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("clip", [True, False])
def test_with_all_the_noise_over_all_steps_it_is_ddpm_of_diffusers(clip, monkeypatch):
    scheduler = in_double(DDPMScheduler(T, beta_end=0.2, clip_sample=clip, variance_type="fixed_small"))
    scheduler.set_timesteps(T)
    noises = Noises()
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *size, **more: noises())
    theirs = start()
    for t in scheduler.timesteps:
        theirs = scheduler.step(predict(theirs, int(t)), t, theirs).prev_sample
    mine = Noises()
    ours = denoise(predict, start(), curve(), Sampler(T, 1.0), noise=mine, clip=clip)
    assert mine.drawn == noises.drawn == T - 1, "the last step adds no noise"
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_schedule_is_that_of_diffusers():
    """Tolerance: theirs is float32."""
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        theirs = DDPMScheduler(1000, beta_schedule=schedule).alphas_cumprod
        ours = ClassDiffusion(schedule=schedule).alphas_cumprod
        torch.testing.assert_close(ours.float(), theirs, rtol=2e-4, atol=1e-7)


def test_quadratic_spacing_is_that_of_the_published_code():
    """Its closed form there: int(linspace(0, √(0.8 T), S)²), which visits the same timestep more than once near 0."""
    for steps, total in [(50, 1000), (10, 1000), (100, 1000), (2, 40), (20, 40), (40, 40)]:
        published = np.linspace(0, np.sqrt(total * 0.8), steps) ** 2
        exact = {int(np.floor(value + 1e-9)) for value in published}  # √² of 800 can be 799.99…
        assert Sampler(steps, spacing="quadratic").visited(total) == sorted(exact, reverse=True)
    visited = Sampler(50, spacing="quadratic").visited(1000)
    assert visited[0] == 800 and visited[-1] == 0
    assert visited[0] - visited[1] > 10 * (visited[-2] - visited[-1])
    assert Sampler(1, spacing="quadratic").visited(T) == [0]


@pytest.mark.parametrize("total", [40, 999, 1000])
@pytest.mark.parametrize("spacing", ["uniform", "linspace"])
def test_uniform_spacing_is_leading_where_the_steps_divide_and_else_linspace(spacing, total):
    """As diffusers' DDIMScheduler has both; sampling starts at T − 1 where the stride is not whole."""
    for steps in range(1, total + 1):
        named = "leading" if spacing == "uniform" and total % steps == 0 else "linspace"
        theirs = DDIMScheduler(total, timestep_spacing=named)
        theirs.set_timesteps(steps)
        visited = Sampler(steps, spacing=spacing).visited(total)
        assert visited == theirs.timesteps.tolist(), (steps, named)
        assert visited[-1] == 0 and len(set(visited)) == steps
        if named == "linspace" and steps > 1:
            assert visited[0] == total - 1


def test_dits_250_steps_are_linspace():
    """The closed form of its code: a stride of 999/249, added up and rounded."""
    place, published = 0.0, []
    for _ in range(250):
        published.append(round(place))
        place += 999 / 249
    assert Sampler(250, spacing="linspace").visited(1000) == published[::-1]


def test_a_sampler_can_say_whether_the_guess_is_clipped():
    """Null is the task's own: of pixels yes."""
    from helpers.small_generators import denoiser

    model, task = denoiser("unet"), ClassDiffusion(num_classes=3, timesteps=20, beta_end=0.3)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model = model.float()
    blank = task.blank(torch.tensor([0, 1]), (1, 8, 8))

    def made(task, clip):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return task.generate(model, blank, generators, Sampler(5, clip=clip))

    assert torch.equal(made(task, None), made(task, True)) and not torch.equal(made(task, True), made(task, False))
    latents = ClassDiffusion(num_classes=3, timesteps=20, beta_end=0.3, clip_samples=False)
    assert torch.equal(made(latents, None), made(task, False)) and torch.equal(made(latents, True), made(task, True))


def test_a_step_that_stays_changes_nothing():
    """Why timesteps that fall together can be visited once: x_t → x₀ → x_t with the same noise is x_t."""
    kept = float(curve()[5])
    x, noise = start(), predict(start(), 5)
    clean = (x - (1 - kept) ** 0.5 * noise) / kept**0.5
    torch.testing.assert_close(kept**0.5 * clean + (1 - kept) ** 0.5 * noise, x, **EXACT)


def test_the_true_noise_leads_back_to_the_image():
    """Of one image x₀ the perfect predictor is (x_t − √ᾱ x₀) / √(1 − ᾱ): every sampler ends in x₀."""
    image, values = start(3).clamp(-1, 1), curve()

    def perfect(x, t):
        return (x - values[t] ** 0.5 * image) / (1 - values[t]) ** 0.5

    for sampler in (Sampler(7), Sampler(7, 1.0), Sampler(9, 0.3, "quadratic"), Sampler(T, 1.0)):
        for clip in (True, False):
            made = denoise(perfect, start(), values, sampler, noise=Noises(), clip=clip)
            torch.testing.assert_close(made, image, **EXACT)


def test_it_stops_on_the_way():
    """What is left after `until` is x at that timestep: of a perfect predictor √ᾱ x₀ + √(1 − ᾱ) ε."""
    image, noise, values = start(3).clamp(-1, 1), start(4), curve()
    first = Sampler(10).visited(T)[0]
    x = values[first] ** 0.5 * image + (1 - values[first]) ** 0.5 * noise

    def perfect(x, t):
        return (x - values[t] ** 0.5 * image) / (1 - values[t]) ** 0.5

    for until in (0, 8, 11, first - 1):
        made = denoise(perfect, x, values, Sampler(10), noise=Noises(), clip=False, until=until)
        torch.testing.assert_close(made, values[until] ** 0.5 * image + (1 - values[until]) ** 0.5 * noise, **EXACT)


def test_it_goes_on_from_where_it_stopped():
    whole = denoise(predict, start(), curve(), Sampler(10), noise=Noises(), clip=True)
    visited = []

    def watched(x, t):
        visited.append(t)
        return predict(x, t)

    half = denoise(watched, start(), curve(), Sampler(10), noise=Noises(), clip=True, until=16)
    assert visited == [36, 32, 28, 24, 20]
    for t in (16, 12, 8, 4, 0):
        kept, before = curve()[t], curve()[t - 4] if t else torch.tensor(1.0, dtype=torch.float64)
        clean = ((half - (1 - kept).sqrt() * predict(half, t)) / kept.sqrt()).clamp(-1, 1)
        half = before.sqrt() * clean + (1 - before).sqrt() * (half - kept.sqrt() * clean) / (1 - kept).sqrt()
    torch.testing.assert_close(half, whole, **EXACT)


@pytest.mark.parametrize("until", [36, 37, T - 1])
def test_before_the_first_visited_timestep_there_is_nothing_to_do(until):
    def never(x, t):
        raise AssertionError(t)

    made = denoise(never, start(), curve(), Sampler(10), noise=Noises(), clip=True, until=until)
    assert torch.equal(made, start())


def test_each_step_is_counted():
    steps = []
    denoise(predict, start(), curve(), Sampler(10), noise=Noises(), clip=True, advance=lambda: steps.append(1))
    assert len(steps) == 10


def test_noise_is_each_images_own():
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = noise_of(generators(1, 2, 3), (2, 5))
    assert torch.equal(together[1:2], noise_of(generators(2), (2, 5)))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps ≥ 1"),
        ({"eta": 1.5}, "η in"),
        ({"spacing": "cubic"}, "quadratic"),
        ({"guidance_scale": 0.0}, "guidance_scale must be above 0"),
    ],
)
def test_ranges(settings, message):
    with pytest.raises(SettingError, match=message):
        Sampler(**settings)


def test_more_steps_than_the_diffusion_has():
    with pytest.raises(SettingError, match="40 steps cannot be sampled in 41"):
        Sampler(41).visited(T)
