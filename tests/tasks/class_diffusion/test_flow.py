"""Generators of classes that are flows: SiT as its authors wrote it, schedulers of flows, attacks, methods."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, FlowMatchEulerDiscreteScheduler

import untrain
from helpers.command_line import untrain as command
from helpers.original_dit import OriginalDiT
from helpers.small_generators import denoiser, pictures, problem
from helpers.tiny_recipes import RECIPE, dit_pipeline, pixels
from untrain.diffusion.denoisers import build_denoiser, from_dit
from untrain.diffusion.paths import Flow
from untrain.diffusion.pipelines import diffusion_of, save_schedule, schedule_of
from untrain.engine import Engine, generator_of
from untrain.errors import CheckpointError, ModelError, SettingError
from untrain.fisher import fisher_diagonal
from untrain.models.checkpoints import load_into
from untrain.runs.models import open_model
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.attacks import invert_class, timestep_losses
from untrain.tasks.class_diffusion.domain import GeneratorModel
from untrain.tasks.class_diffusion.embeddings import shared_embeddings
from untrain.tasks.class_diffusion.task import ClassDiffusion
from untrain.tasks.text_to_image.task import TextToImage

ENGINE = Engine(torch.device("cpu"))
SIT = ClassDiffusion(flow=Flow(density="uniform", convention="sit"))
SHIFTED = ClassDiffusion(flow=Flow(3.0))
DRAWN = torch.Generator


def original(channels: int = 1) -> tuple[OriginalDiT, Any]:
    """A SiT of random weights, whose network is the original DiT's, and the same of diffusers' class."""
    torch.manual_seed(0)
    theirs = OriginalDiT(depth=2, width=16, heads=2, size=8, classes=3, channels=channels).double()
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    ours = build_denoiser("dit-s-2", num_classes=3, in_channels=channels, image_size=8, **sizes).double()
    load_into(ours, from_dit(theirs.state_dict(), ours))
    return theirs, ours


def velocity(theirs: OriginalDiT, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """What SiT's forward gives: towards the data, the other half of its channels left aside."""
    return theirs(x, t, y)[:, : x.shape[1]]


def drawn(task: ClassDiffusion, seed: int = 0) -> dict[str, torch.Tensor]:
    x, y = pictures(6, 1, [0, 1, 2]).tensors
    return task.draw({"input": x, "label": y, "index": torch.arange(6)}, DRAWN().manual_seed(seed), "forget")


class TestSiT:
    def test_the_loss_is_that_of_its_authors(self) -> None:
        """Ma et al. 2024: t from 0, noise, to 1, data; x_t = t x + (1 − t) ε; target x − ε. One sample at a time."""
        theirs, ours = original()
        batch = drawn(SIT)
        task = SIT.prepare(ours, batch)
        assert task.learned_variance is False
        assert task.prepare(ours, batch) == task
        losses = task.loss(ours, batch)
        for i in range(6):
            x, noise, y = (batch[key][i : i + 1] for key in ("input", "noise", "label"))
            t = 1 - batch["timestep"][i : i + 1] / 1000
            seen = t.double() * x + (1 - t.double()) * noise
            error = velocity(theirs, seen, t, y) - (x - noise)
            assert losses[i].item() == pytest.approx(error.square().mean().item(), rel=1e-6)  # t is a float32

    def test_images_are_those_of_its_authors_sampler(self) -> None:
        """Euler's method from t = 0 to 1 along the velocity, guided as w v(c) + (1 − w) v(∅)."""
        theirs, ours = original()
        task = SIT.prepare(ours, drawn(SIT))
        labels = torch.tensor([0, 2])
        blank = task.blank(labels, (1, 8, 8))
        blank["input"] = blank["input"].double()
        sampler = Sampler(4, guidance_scale=2.0)
        made = task.generate(ours, blank, [DRAWN().manual_seed(i) for i in (0, 1)], sampler)
        x = torch.stack([torch.randn(1, 8, 8, generator=DRAWN().manual_seed(i)) for i in (0, 1)]).double()
        with torch.no_grad():
            for k in range(4):
                t = torch.full((2,), k / 4)
                told, untold = velocity(theirs, x, t, labels), velocity(theirs, x, t, torch.full((2,), 3))
                x = x + (2 * told - untold) / 4
        torch.testing.assert_close(made.double(), x, rtol=1e-4, atol=1e-5)

    def test_the_fisher_diagonal_is_that_of_a_loop_and_0_of_what_is_never_looked_at(self) -> None:
        _, ours = original()
        batch = drawn(SIT)
        task = SIT.prepare(ours, batch)
        found = fisher_diagonal(ours, task, [batch])
        weights = dict(ours.named_parameters())
        slow = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for loss in task.loss(ours.eval(), batch):
            gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                slow[name] += 0 if gradient is None else gradient.square() / 6
        for name, value in found.items():
            torch.testing.assert_close(value.double(), slow[name], rtol=1e-5, atol=1e-12)
        aside = found["proj_out_2.bias"].view(2, 2, 2)[..., 1]
        assert not aside.any() and found["proj_out_2.bias"].view(2, 2, 2)[..., 0].all()

    @pytest.mark.parametrize(
        ("method", "settings"),
        [
            ("sfron", {"steps": 2, "max_norm": 1.0}),
            (
                "selective-amnesia",
                {"steps": 2, "replay_samples": 4, "fisher_samples": 4, "fisher_timesteps": 3, "sampler": Sampler(1)},
            ),
            ("concept-ablation", {"steps": 1, "samples": 2, "images": 0, "sampler": Sampler(2)}),
        ],
    )
    def test_methods_change_it_but_for_what_is_never_looked_at(self, method: str, settings: dict[str, Any]) -> None:
        ours = denoiser("dit-learned", num_layers=1)
        given, _ = problem(ours, SIT)
        optimizer = {"name": "adam", "lr": 1e-3}
        before = {name: value.clone() for name, value in ours.state_dict().items()}
        sets = {"forget": given.forget.data, "retain": given.retain.data}
        result = untrain.unlearn(
            ours, **sets, task=SIT, method=method, batch_size=6, device="cpu", optimizer=optimizer, **settings
        )
        after = result.model.state_dict()
        assert all(value.isfinite().all() for value in after.values())
        assert any(not torch.equal(value, before[name]) for name, value in after.items())
        aside = [state["proj_out_2.weight"].view(2, 2, 2, -1)[:, :, 1] for state in (before, after)]
        assert torch.equal(*aside)

    def test_a_variance_that_is_asked_for_is_refused(self) -> None:
        _, ours = original()
        with pytest.raises(ModelError, match="a flow has no variance to learn"):
            replace(SIT, learned_variance=True).prepare(ours, drawn(SIT))

    def test_pipelines_of_texts_have_no_convention(self) -> None:
        with pytest.raises(SettingError, match="pipelines are told of time as diffusers"):
            TextToImage(flow=Flow(convention="sit"))


class TestAttacks:
    @pytest.mark.parametrize("task", [SIT, SHIFTED], ids=["sit", "shifted"])
    def test_losses_by_timestep_are_the_formula_for_every_image_alone(self, task: ClassDiffusion) -> None:
        model = denoiser("dit")
        given, engine = problem(model, task)
        task = given.task
        found = timestep_losses(model, task, given.forget, engine, timesteps=[99, 499], noises=2, seed=7)
        x, y = given.forget.data.tensors
        for i in (0, 7):
            noise = torch.randn(2, 2, 1, 8, 8, generator=generator_of(7, "members", "forget", i)).double()
            for j, u in enumerate((0.1, 0.5)):
                sigma = task.flow.shift * u / (1 + (task.flow.shift - 1) * u)
                turned = task.flow.convention == "sit"
                time = torch.full((2,), 1 - sigma if turned else 1000 * sigma, dtype=torch.float32)
                with torch.no_grad():
                    v = model.eval()((1 - sigma) * x[i] + sigma * noise[j], time, class_labels=y[i].expand(2)).sample
                error = (-v if turned else v) - (noise[j] - x[i])
                assert found[i, j].item() == pytest.approx(error.square().mean().item(), rel=1e-5)

    def test_inversion_goes_down_the_error_of_the_velocity(self) -> None:
        """The first step of Adam: by its rate against the sign of the gradient."""
        model = denoiser("dit")
        with torch.no_grad():
            for parameter in model.parameters():  # a new DiT does not look at its class
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=DRAWN().manual_seed(1)))
        given, engine = problem(model, SHIFTED)
        groups = shared_embeddings(model)
        how: dict[str, Any] = {"groups": groups, "label": 2, "retained": [0, 1], "rate": 0.01}
        started = invert_class(model, given.task, given.forget, engine, steps=0, **how)
        found = invert_class(model, given.task, given.forget, engine, steps=1, **how)
        batch = given.forget.batch(0, given.task, "forget")
        with torch.no_grad():
            for group, vector in zip(groups, started, strict=True):
                for table in group:
                    table.weight[2] = vector
        sigma = (batch["timestep"].double() / 1000)[:, None, None, None]
        seen = (1 - sigma) * batch["input"] + sigma * batch["noise"]
        v = model.eval()(seen, batch["timestep"], class_labels=batch["label"]).sample
        (v - (batch["noise"] - batch["input"])).square().mean().backward()
        for group, start, after in zip(groups, started, found, strict=True):
            gradient = sum(table.weight.grad[2] for table in group)
            torch.testing.assert_close(after, start - 0.01 * gradient.sign(), rtol=0, atol=1e-4)


class TestFolders:
    @pytest.mark.parametrize("flow", [Flow(), Flow(2.5, "uniform", "cosmap", "sit")])
    def test_a_flow_is_read_as_it_was_saved(self, flow: Flow, tmp_path) -> None:
        save_schedule(ClassDiffusion(timesteps=500, flow=flow), tmp_path)
        assert diffusion_of(tmp_path) == {"timesteps": 500, "flow": flow}
        loaded = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
        assert (loaded.config.num_train_timesteps, loaded.shift) == (500, flow.shift)

    def test_what_is_saved_is_one_or_the_other(self, tmp_path) -> None:
        save_schedule(ClassDiffusion(timesteps=20, beta_end=0.3), tmp_path)
        assert diffusion_of(tmp_path) == schedule_of(tmp_path)
        pipeline = dit_pipeline()
        assert diffusion_of(pipeline) == schedule_of(pipeline)
        assert diffusion_of(pipeline.transformer) == {}

    def test_flows_that_are_not_known_are_refused(self, tmp_path) -> None:
        save_schedule(SHIFTED, tmp_path)
        path = tmp_path / "scheduler_config.json"
        config = json.loads(path.read_text())
        for change, error, message in (
            ({"use_dynamic_shifting": True}, ModelError, "shifts by the size of images"),
            ({"use_karras_sigmas": True}, ModelError, "has use_karras_sigmas"),
            ({"density": "cubic"}, CheckpointError, "density"),
        ):
            path.write_text(json.dumps(config | change))
            with pytest.raises(error, match=message):
                diffusion_of(tmp_path)

    def test_a_users_model_is_kept_with_its_flow(self, tmp_path) -> None:
        module = denoiser("dit-learned")
        GeneratorModel(module, SIT).save(tmp_path / "alone", module)
        assert diffusion_of(tmp_path / "alone") == {"timesteps": 1000, "flow": SIT.flow}

    def test_a_pipelines_flow_takes_the_place_of_defaults_alone(self) -> None:
        pipeline = dit_pipeline()
        pipeline.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0))
        assert GeneratorModel(pipeline, ClassDiffusion(), named=True).task.flow == Flow(2.0)
        assert GeneratorModel(pipeline, SIT).task.flow == SIT.flow


def test_a_recipe_goes_on_from_a_pipeline_with_a_flow(tmp_path) -> None:
    """Its scheduler says how it was trained; what is unlearned is sampled by it."""
    pipeline = dit_pipeline()
    pipeline.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0))
    pipeline.save_pretrained(tmp_path / "sit")
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    data = pixels(tmp_path / "a.npz", ["0", "1", "2", "3"])
    words = ["--model.name", "null", "--model.options", "{}", "--methods.sfron.steps", "2", "--data.limit", "null"]
    words += ["--data.name", "arrays", "--data.path", data, "--data.test_limit", "null", "--forget.classes", "[1]"]
    words += ["--model.checkpoint", tmp_path / "sit", "--diffusion.flow", "{density: uniform}"]
    wrong = [*words[:-1], "{shift: 3.0}"]
    code, _, err = command("unlearn", tmp_path / "tiny.yaml", "--out", tmp_path / "wrong", *wrong)
    assert code and "diffusion.flow.shift is 3.0" in err and "has 2.0" in err
    code, _, err = command("unlearn", tmp_path / "tiny.yaml", "--out", tmp_path / "run", *words)
    assert code == 0, err
    domain, _ = open_model(tmp_path / "run", "sfron")
    assert domain.task.flow == Flow(2.0, "uniform")
    kept = DiTPipeline.from_pretrained(tmp_path / "run/sfron")
    assert isinstance(kept.scheduler, FlowMatchEulerDiscreteScheduler) and kept.scheduler.shift == 2.0
    for source in ("run", "run/sfron"):
        out = tmp_path / f"{source.replace('/', '-')}.png"
        code, _, err = command("sample", tmp_path / source, "--count", "1", "--steps", "2", "--out", out)
        assert code == 0, err
