"""Prompts that are the same to the text encoders, so that what is asked of them contradicts itself or is done twice."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from untrain.diffusion.text import tokens_of
from untrain.errors import DataError, Overlap
from untrain.tasks.text_to_image.concepts import Concept
from untrain.tasks.text_to_image.rendering import EvalPrompt

_ADVICE = "To its text encoder they are the same: small and large letters and spaces make no difference to most."


def check_concepts(pipeline: Any, lists: Mapping[str, Sequence[Concept]]) -> None:
    """Refuses concepts that ask for two things of one prompt; warns of one that is in a set twice.

    Args:
        pipeline: has the tokenizers.
        lists: "forget" and "retain": concepts.

    Raises:
        DataError: if a prompt is redirected to itself. Overlap: if one is in two sets.
    """
    concepts = [(name, concept) for name, each in lists.items() for concept in each]
    texts = list(dict.fromkeys(text for _, c in concepts for text in (c.prompt, c.anchor or "")))
    tokens = dict(zip(texts, tokens_of(pipeline, texts), strict=True))
    seen: dict[Any, tuple[str, Concept]] = {}
    twice: list[str] = []
    for name, concept in concepts:
        anchor = "" if concept.anchor is None and name == "forget" else concept.anchor
        if anchor is not None and tokens[anchor] == tokens[concept.prompt]:
            raise DataError(
                f"the anchor of {concept.prompt!r} is {anchor!r}, so that nothing would change. {_ADVICE} Name as the "
                "anchor what to make of it instead."
            )
        other, first = seen.setdefault(tokens[concept.prompt], (name, concept))
        if other != name:
            raise Overlap(
                f"{first.prompt!r} is in the {other} set and {concept.prompt!r} in the {name} set. {_ADVICE} Leave it "
                "out of one of the two."
            )
        if first is not concept:
            twice.append(f"{first.prompt!r} and {concept.prompt!r}")
    if twice:
        warnings.warn(
            f"{len(twice)} prompts are in a set twice, the first {twice[0]}. {_ADVICE} They count twice.", stacklevel=3
        )


def check_asked(pipeline: Any, prompts: Sequence[EvalPrompt]) -> None:
    """Refuses prompts of an evaluation of which one is forgotten and retained.

    Raises:
        Overlap: names the two.
    """
    tokens = tokens_of(pipeline, [each.text for each in prompts])
    forgotten = {seen: each.text for seen, each in zip(tokens, prompts, strict=True) if each.forgotten}
    for seen, each in zip(tokens, prompts, strict=True):
        if not each.forgotten and seen in forgotten:
            raise Overlap(
                f"{forgotten[seen]!r} is evaluated as forgotten and {each.text!r} as retained. {_ADVICE} Leave it out "
                "of one of the two."
            )
