"""Closed-form edits of embeddings of classes: the formula, and what is made of a class afterwards."""

import copy
from dataclasses import replace

import pytest
import torch

from helpers.small_generators import denoiser, pictures, points_problem, problem, recognised, trained_points
from untrain.data.streams import Stream
from untrain.errors import ModelError, SettingError
from untrain.methods import make
from untrain.methods.base import check_runs
from untrain.methods.loop import run
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.edits import class_maps
from untrain.tasks.class_diffusion.embeddings import class_embeddings


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_the_row_of_the_class_becomes_the_formula_and_nothing_else_changes(kind):
    """Vectors of classes are orthogonal: e_c ← (λ e_c + s e_n) / (λ + s), n the class that is drawn instead."""
    work, engine = problem(denoiser(kind))
    before = copy.deepcopy(work.subject.module)
    check_runs(make("uce", {}), work.task)
    run(make("uce", {"lam": 0.25, "edit_scale": 2.0}), work, engine)
    rows = {id(table.weight): table.weight for table in class_embeddings(work.subject.module)}
    olds = {id(table.weight): table.weight for table in class_embeddings(before)}
    changed = {
        name
        for (name, new), old in zip(work.subject.module.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert len(changed) == len(olds) > 0
    for new, old in zip(rows.values(), olds.values(), strict=True):
        expected = old.detach().clone()
        expected[2] = (0.25 * old[2] + 2.0 * old[0]) / 2.25
        assert torch.allclose(new, expected, rtol=0, atol=1e-12)


def test_a_class_is_no_longer_made_and_the_others_are_to_the_bit():
    work, engine = points_problem(copy.deepcopy(trained_points()))
    sampler = Sampler(steps=10)
    before = recognised(work.subject.module, work.task, sampler)
    done = run(make("uce", {"lam": 1e-3}), work, engine)
    *others, forgotten = recognised(done.state.module, work.task, sampler)
    assert forgotten < 0.05 and others == before[:-1]


def test_what_has_no_meaning_for_classes_is_refused():
    work, engine = problem(denoiser())
    for name, settings in (("mace-refine", {}), ("uce", {"tokens": "others"})):
        with pytest.raises(SettingError, match="tokens='others' has no meaning"):
            check_runs(make(name, settings), work.task)
    with pytest.raises(ModelError, match="no embedding of classes"):
        class_maps(torch.nn.Linear(2, 2), 3)
    some = replace(work, retain=Stream(pictures(12, 3, [0, 1, 2]), "retain", engine, 6))
    with pytest.raises(SettingError, match="uce forgets whole classes"):
        run(make("uce", {}), some, engine)
