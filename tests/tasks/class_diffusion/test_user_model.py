"""A user's generator of classes taken apart: what of it is trained, on which data and schedule, and what it becomes."""

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline
from torch import nn
from torch.utils.data import TensorDataset

from helpers.tiny_recipes import SMALL, dit_pipeline
from untrain.diffusion.denoisers import build_denoiser, load_denoiser
from untrain.diffusion.latents import encode_data
from untrain.diffusion.pipelines import schedule_of
from untrain.engine import Engine
from untrain.errors import CheckpointError, ModelError
from untrain.tasks.class_diffusion.domain import GeneratorModel
from untrain.tasks.class_diffusion.task import ClassDiffusion

ENGINE = Engine(torch.device("cpu"))
OWN = ClassDiffusion(timesteps=30, beta_end=0.2, drop=0.0)


def unet():
    return build_denoiser("unet-small", num_classes=3, in_channels=1, image_size=8, **SMALL)


def data(count=4):
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(pixels, torch.arange(count) % 4)


def test_a_module_is_trained_as_it_is():
    module = unet()
    given = GeneratorModel(module, OWN)
    assert given.module is given.model is module and given.task is OWN and given.vae is None
    sets = {"forget": data(), "retain": data()}
    with given.sets(sets, ENGINE, None, 0) as seen:
        assert seen == sets
    assert given.whole(module) is module
    other = unet()
    assert given.whole(other) is other


def test_of_a_pipeline_the_noise_predictor_is_trained_in_its_vaes_latents():
    pipeline = dit_pipeline()
    given = GeneratorModel(pipeline, OWN)
    assert given.module is pipeline.transformer and given.vae is pipeline.vae
    with given.sets({"forget": data()}, ENGINE, None, 0) as seen:
        ours, theirs = seen["forget"], encode_data(pipeline.vae, data(), ENGINE, name="forget")
        assert len(ours) == 4 and ours[2].keys() == {"latent_mean", "latent_std", "label", "index"}
        assert all(torch.equal(value, theirs[2][key]) for key, value in ours[2].items())
    assert given.whole(pipeline.transformer) is pipeline
    new = given.whole(dit_pipeline().transformer)
    assert isinstance(new, DiTPipeline) and new.vae is pipeline.vae and new.transformer is not pipeline.transformer
    assert pipeline.transformer is given.module, "the user's is as it was"


@pytest.mark.parametrize("named", [True, False])
def test_a_pipelines_schedule_takes_the_place_of_defaults_alone(named):
    """Of a task's name, not of a task object, whose settings are the user's; latents are never clipped."""
    task = ClassDiffusion() if named else OWN
    given = GeneratorModel(dit_pipeline(), task, named=named).task
    assert (given.timesteps, given.beta_end) == ((20, 0.3) if named else (30, 0.2))
    assert given.drop == task.drop and not given.clip_samples


@pytest.mark.parametrize("whole", [True, False])
def test_a_new_one_has_the_architecture_and_other_weights(whole):
    model = dit_pipeline() if whole else unet()
    given = GeneratorModel(model, OWN)
    new, old = given.init()().state_dict(), given.module.state_dict()
    assert {name: value.shape for name, value in new.items()} == {name: value.shape for name, value in old.items()}
    assert any(not torch.equal(new[name], old[name]) for name in old)
    assert GeneratorModel(nn.Linear(2, 2), OWN).init() is None, "whose configuration is not known"


def test_diffusers_loads_what_is_kept(tmp_path):
    pipeline, new = dit_pipeline(), dit_pipeline().transformer
    nn.init.constant_(new.proj_out_2.bias, 0.5)
    GeneratorModel(pipeline, OWN).save(tmp_path / "whole", new)
    loaded = DiTPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(loaded.transformer.proj_out_2.bias, new.proj_out_2.bias)
    assert schedule_of(tmp_path / "whole") == schedule_of(pipeline), "the pipeline's own"

    module = unet()
    GeneratorModel(module, OWN).save(tmp_path / "alone", module)
    kept = load_denoiser(tmp_path / "alone").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    assert DDPMScheduler.from_pretrained(tmp_path / "alone").config.num_train_timesteps == 30
    assert schedule_of(tmp_path / "alone") == {
        "timesteps": 30, "schedule": "linear", "beta_start": OWN.beta_start, "beta_end": 0.2,
    }  # fmt: skip

    GeneratorModel(nn.Linear(2, 2), OWN).save(tmp_path / "other", nn.Linear(2, 2))
    assert not (tmp_path / "other").exists(), "the run's own weights are all there is"


def test_what_holds_no_noise_predictor_is_refused():
    for wrong in ({}, "a path", None):
        with pytest.raises(ModelError, match=type(wrong).__name__):
            GeneratorModel(wrong, OWN)
    pipeline = dit_pipeline()
    pipeline.register_modules(transformer=None)
    with pytest.raises(CheckpointError, match="DiTPipeline"):
        GeneratorModel(pipeline, OWN)
