"""Paths of noise: flow matching against diffusers' own, and generators of classes on the same path."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from untrain import ClassDiffusion, Flow, Sampler
from untrain.diffusion.paths import FlowPath
from untrain.errors import SettingError


def test_what_a_flow_cannot_be_sampled_by() -> None:
    path = FlowPath(1000, Flow(3.0))
    for wrong in ({"eta": 0.5}, {"clip": True}, {"spacing": "quadratic"}, {"solver": "lms"}):
        with pytest.raises(SettingError, match="Euler"):
            path.visited(Sampler(4, **wrong))  # type: ignore[arg-type]


def test_times_of_a_flow_are_those_of_diffusers() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    path = FlowPath(1000, Flow(3.0))
    numbered = path.numbered(torch.arange(1000)).flip(0)
    torch.testing.assert_close(numbered, theirs.timesteps, rtol=1e-5, atol=1e-3)
    for steps in (1, 2, 28):
        theirs.set_timesteps(steps)
        ours = torch.tensor(path.visited(Sampler(steps, spacing="linspace")))
        torch.testing.assert_close(ours, theirs.timesteps, rtol=1e-5, atol=1e-3)


def test_drawn_times_are_logit_normal_shifted_and_in_pairs() -> None:
    path = FlowPath(1000, Flow(3.0))
    drawn = path.draw(4000, torch.Generator().manual_seed(0), "antithetic").double() / 1000
    u = drawn / (3 - 2 * drawn)  # the shift undone
    torch.testing.assert_close(u[:2000] + u[2000:], torch.ones(2000).double(), rtol=1e-5, atol=1e-5)
    z = path.draw(4000, torch.Generator().manual_seed(0), "uniform").double() / 1000
    z = (z / (3 - 2 * z)).logit()
    assert abs(float(z.mean())) < 0.05 and abs(float(z.std()) - 1) < 0.05
    weights = FlowPath(1000, Flow(weighting="cosmap")).weight(torch.tensor([0.0, 500.0, 1000.0]))
    theirs = diffusers.training_utils.compute_loss_weighting_for_sd3("cosmap", torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(weights, theirs)


def test_x_t_and_its_target_are_those_of_diffusers() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    path, g = FlowPath(1000, Flow(3.0)), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 2, 3, 3, generator=g) for _ in range(2))
    t = theirs.timesteps[[0, 10, 500, 999]]
    torch.testing.assert_close(path.noisy(clean, noise, t), theirs.scale_noise(clean, t, noise), rtol=1e-5, atol=1e-5)
    x = path.noisy(clean, noise, t)
    sigma = (t / 1000).view(-1, 1, 1, 1)
    back = x - sigma * path.target(clean, noise, t)
    torch.testing.assert_close(back, clean, rtol=1e-4, atol=1e-4, msg="along the target, x_t leads to x₀")


class Straight(nn.Module):
    """Knows each class's only image, and so the velocity towards it."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images)
        self.classes = nn.Embedding(len(images) + 1, 1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        sigma = (t.to(x.dtype) / 1000).view(-1, 1, 1, 1)
        return (x - self.images[class_labels.clamp(max=len(self.images) - 1)]) / sigma


def test_generators_of_classes_walk_on_the_same_path() -> None:
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    model: Any = Straight(images).double()
    task = ClassDiffusion(flow=Flow(2.0), num_classes=3, drop=0.0)
    labels = torch.arange(3)
    batch = task.draw({"input": images, "label": labels, "index": labels}, torch.Generator().manual_seed(0), "forget")
    assert batch["timestep"].is_floating_point()
    task = task.prepare(model, batch)
    assert float(task.loss(model, batch).detach().max()) < 1e-6, "it predicts the target"
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    made = task.generate(model, task.blank(labels, (1, 4, 4)), generators, Sampler(5))
    torch.testing.assert_close(made.double(), images, rtol=1e-4, atol=1e-4)
