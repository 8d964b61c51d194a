"""What kind of request a problem is: single samples, most of them of one class, a whole class, or of a generator."""

from __future__ import annotations

from typing import Literal

from untrain.lazy import torch
from untrain.methods.base import Problem
from untrain.methods.calibration import forgets_a_class
from untrain.methods.like_with_like import class_counts, is_one_sided, spread
from untrain.types import GenerativeTask

Request = Literal["samples", "one-sided", "class", "concept"]
ASKED: dict[Request, str] = {
    "samples": "single samples",
    "one-sided": "samples of one class, of which more are retained",
    "class": "whole classes",
    "concept": "classes or concepts of a generator",
}
"""Kind of request → in words."""


def request_kind(problem: Problem) -> Request:
    """What is to be forgotten, as the labels of forget and retain set tell; "samples" where there are no labels."""
    if isinstance(problem.task, GenerativeTask):
        return "concept"
    if forgets_a_class(problem):
        return "class"
    forget, retain = (class_counts(stream, problem.task) for stream in (problem.forget, problem.retain))
    if forget is None or retain is None:
        return "samples"
    classes = torch.cat([forget[0], retain[0]]).unique()
    return "one-sided" if is_one_sided(spread(forget, classes), spread(retain, classes)) else "samples"
