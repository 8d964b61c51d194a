"""What an audit asks of generators: of latents and several classes, alike of every model, and what it cannot ask."""

import numpy as np
import pytest
import torch

from helpers.small_generators import denoiser
from helpers.tiny_recipes import dit_pipeline, pixels
from untrain.domain import Inquiry
from untrain.errors import SettingError
from untrain.runs.recipe import read
from untrain.runs.stages import open_experiment, train_helpers
from untrain.settings import make
from untrain.tasks.class_diffusion.audit import ClassAuditOptions, attack_needs
from untrain.tasks.class_diffusion.embeddings import class_embeddings

RECIPE = """\
name: latents
task: class-diffusion
data: {name: arrays, path: DATA}
forget: {classes: ["b", "d"]}
model: {name: dit-tiny, vae: VAE, options: {num_layers: 2, num_attention_heads: 2, attention_head_dim: 8}}
diffusion: {timesteps: 20, beta_end: 0.3}
train: {steps: 2}
generation: {sampler: {steps: 2}, samples: 3}
judge: {options: {width: 4}, train: {steps: 4}}
methods: {sfron: {steps: 2}}
batch_size: 8
device: cpu
"""
OPTIONS = ClassAuditOptions(images=4, batch_size=4, drawn=2, kept=1, inversion_steps=2, relearning_steps=[1, 2])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A generator of latents of four classes, two of which are to be forgotten."""
    place = tmp_path_factory.mktemp("latents")
    dit_pipeline().vae.save_pretrained(place / "vae")
    text = RECIPE.replace("DATA", str(pixels(place / "data.npz", list("abcd")))).replace("VAE", str(place / "vae"))
    (place / "recipe.yaml").write_text(text)
    return open_experiment(read(place / "recipe.yaml", ["--out", str(place / "run")]))


def ask(experiment, module, rate=0.001):
    inquiry = Inquiry(experiment.division, rate, 3, OPTIONS, train_helpers(experiment))
    return experiment.domain.ask_whole(module, inquiry)


def test_generators_of_latents_are_asked_in_images(experiment):
    module = experiment.domain.build(1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    told, again = ask(experiment, module), ask(experiment, module)
    assert all(np.array_equal(told.signals[name], again.signals[name]) for name in told.signals)
    assert told.scores == again.scores and told.notes == again.notes
    assert told.signals["inversion"].shape == (2, 2, 3, 16, 16), "classes, images, pixels"
    assert {"plain", "inversion", "relearning", "relearning-1", "relearning-2", "retained"} == set(told.scores)
    assert told.scores["relearning"] == (told.scores["relearning-1"] + told.scores["relearning-2"]) / 2
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert "members" not in told.signals and any("held out at random" in note for note in told.notes)


def test_every_model_draws_from_the_same_noise(experiment):
    """Drawn by models of equal weights the images are the same, whatever the run folder's own seed is."""
    one, two = (ask(experiment, experiment.domain.build(seed)).signals["plain"] for seed in (1, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, ask(experiment, experiment.domain.build(2)).signals["plain"])


def test_what_cannot_be_asked_is_missing_with_its_reason(experiment):
    domain, module = experiment.domain, experiment.domain.build(1)
    told = ask(experiment, module, rate=None)
    numbers = domain.audit_numbers([told] * 5, [told] * 5, [told] * 5, 0, options=OPTIONS)
    assert numbers["relearning"].missing and "learning rate" in numbers["relearning"].missing
    assert numbers["members"].missing and "random" in numbers["members"].missing
    assert numbers["inversion"].missing is None and len(numbers["inversion"].original) == 5


def test_options_are_checked_and_their_memory_is_said():
    for wrong in ([], [5, 5], [5, 2]):
        with pytest.raises(SettingError, match="relearning_steps"):
            make(ClassAuditOptions, {"relearning_steps": wrong})
    with pytest.raises(SettingError, match="inversion_lr"):
        make(ClassAuditOptions, {"inversion_lr": 0})
    assert "2.7 GB" in attack_needs(ClassAuditOptions(), 250, 2_700_000_000)[1]


def test_a_model_without_a_known_embedding_has_no_inversion():
    assert class_embeddings(torch.nn.Conv2d(1, 1, 1)) == [] and len(class_embeddings(denoiser("dit"))) == 2
