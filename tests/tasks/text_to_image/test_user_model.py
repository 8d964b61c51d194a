"""A user's text-to-image pipeline taken apart, or its UNet alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from helpers.small_pipelines import TEXTS, rows_of
from untrain import Concept, ConceptImages, Sampler, TextToImage
from untrain.diffusion.denoisers import fresh_denoiser
from untrain.diffusion.pipelines import load_pipeline
from untrain.engine import Engine
from untrain.errors import DataError, ModelError, SettingError
from untrain.tasks.text_to_image.concepts import CACHE, text_task
from untrain.tasks.text_to_image.domain import PipelineModel, UnlearnOptions

ENGINE = Engine(torch.device("cpu"))
SETS = {"forget": Concept(TEXTS[0], anchor=TEXTS[1]), "retain": Concept(TEXTS[1])}
FEW = UnlearnOptions(ConceptImages(count=3, sampler=Sampler(2, guidance_scale=2.0), batch_size=2))
NONE = UnlearnOptions()


def test_of_a_pipeline_the_unet_is_trained(pipe: Any) -> None:
    """On the pipeline's own schedule; the rest is the user's."""
    given = PipelineModel(pipe, TextToImage(drop=0.0, draws="uniform", timesteps=7))
    assert given.is_whole and given.module is pipe.unet and given.vae is pipe.vae
    assert given.task == text_task(pipe, drop=0.0, draws="uniform") and given.task.timesteps == 20
    assert given.whole(pipe.unet) is pipe
    other = fresh_denoiser(pipe.unet)
    twin = given.whole(other)
    assert isinstance(twin, StableDiffusionPipeline) and twin.unet is other and twin.vae is pipe.vae
    assert pipe.unet is given.module, "the user's is as it was"


def test_concepts_are_latents_and_prompts_until_a_good_end(pipe: Any, tmp_path: Path) -> None:
    given = PipelineModel(pipe, TextToImage())
    with given.sets(SETS, ENGINE, tmp_path, 0, FEW) as sets:
        assert {name: len(data) for name, data in sets.items()} == {"forget": 3, "retain": 3}
        assert {"latent_mean", "latent_std", "prompt", "anchor", "empty"} <= sets["forget"][0].keys()
        assert len([*(tmp_path / CACHE).rglob("*.png")]) == 6
        assert given.batch_size(sets) == 32, "of 64 × 64 latents the published 2, and more of smaller ones"
    assert not [*tmp_path.iterdir()]
    with pytest.raises(KeyboardInterrupt):
        interrupted(given, tmp_path)
    assert len([*(tmp_path / CACHE).rglob("*.png")]) == 6, "to go on from"


def interrupted(given: PipelineModel, place: Path) -> None:
    with given.sets(SETS, ENGINE, place, 0, FEW) as sets:
        _ = sets["forget"][0]
        raise KeyboardInterrupt


def test_a_unet_alone_has_ready_batches(pipe: Any) -> None:
    given = PipelineModel(pipe.unet, task := text_task(pipe))
    assert not given.is_whole and given.module is pipe.unet and given.task is task
    batches = {"forget": [rows_of(pipe, 6)], "retain": [rows_of(pipe, 6)]}
    with given.sets(batches, ENGINE, None, 0, NONE) as sets:
        assert sets == batches
    assert given.batch_size(batches) == 128
    assert given.whole(other := fresh_denoiser(pipe.unet)) is other


@pytest.mark.parametrize("whole", [True, False])
def test_a_new_one_has_the_architecture_and_other_weights(pipe: Any, whole: bool) -> None:
    given = PipelineModel(pipe if whole else pipe.unet, TextToImage())
    init = given.init()
    assert init is not None
    new, old = init().state_dict(), pipe.unet.state_dict()
    assert {name: value.shape for name, value in new.items()} == {name: value.shape for name, value in old.items()}
    assert any(not torch.equal(new[name], old[name]) for name in old)


def test_diffusers_loads_what_is_kept(pipe: Any, tmp_path: Path) -> None:
    other = fresh_denoiser(pipe.unet)
    PipelineModel(pipe, TextToImage()).save(tmp_path / "new", other)
    kept = load_pipeline(tmp_path / "new").unet.state_dict()
    assert all(torch.equal(value.float(), kept[name]) for name, value in other.state_dict().items())


def test_what_does_not_go_together_is_refused(pipe: Any) -> None:
    whole, alone = PipelineModel(pipe, TextToImage()), PipelineModel(pipe.unet, text_task(pipe))
    for given, sets, options, error, culprit in (
        (whole, SETS | {"holdout": Concept("b")}, NONE, SettingError, "holdout"),
        (alone, SETS, NONE, DataError, "forget set"),
        (alone, {"forget": [rows_of(pipe, 6)]}, FEW, SettingError, "images="),
    ):
        with pytest.raises(error, match=culprit), given.sets(sets, ENGINE, None, 0, options):
            pass
    with pytest.raises(ModelError, match="dict"):
        PipelineModel({}, TextToImage())
