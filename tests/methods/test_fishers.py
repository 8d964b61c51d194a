import torch

from helpers.references import fisher_sample_by_sample
from helpers.small_generators import denoiser, problem
from untrain.methods.fishers import fishers_of


def test_each_sample_is_drawn_anew_as_often_as_asked_and_all_draws_count_alike():
    """F is a mean over samples and draws: against one backward pass a sample and draw, in float64."""
    work, engine = problem(denoiser())
    model, task = work.subject.module, work.task
    for stream, found in zip((work.forget, work.retain), fishers_of(work, engine, draws=3), strict=True):
        passes = [list(stream.once(task, "fisher", time=time)) for time in range(3)]
        seen = [torch.cat([batch["timestep"] for batch in batches]) for batches in passes]
        assert not torch.equal(seen[0], seen[1])
        assert not torch.equal(seen[1], seen[2])
        wanted = fisher_sample_by_sample(model, task, [batch for batches in passes for batch in batches])
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-20)


def test_one_draw_is_the_first_of_many():
    work, _ = problem(denoiser())
    first, again = (list(work.forget.once(work.task, "fisher", time=0)) for _ in range(2))
    default = list(work.forget.once(work.task, "fisher"))
    for a, b, c in zip(first, again, default, strict=True):
        assert torch.equal(a["noise"], b["noise"])
        assert torch.equal(a["noise"], c["noise"])
