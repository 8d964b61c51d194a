"""CLIP's tokenizer lowers case and joins spaces (erasing#18, #21): a prompt redirected to itself in another spelling.

Such a request, and one prompt forgotten and retained in two spellings, is refused or noted.
"""

import warnings

import diffusers
import torch
from _common import done, tmp

import untrain
from helpers.small_pipelines import stable_diffusion

diffusers.utils.logging.set_verbosity_error()
Concept = untrain.Concept
pipeline = stable_diffusion(tmp()).to(torch.float32)
A, B = (torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8) for _ in range(2))


def attempt(forget, retain):
    """The result and what was said; None where it is refused."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            result = untrain.unlearn(
                pipeline, task="text-to-image", forget=forget, retain=retain, steps=3, batch_size=2, device="cpu"
            )
        except untrain.UntrainError:
            return None
    return result, result.notes + [str(each.message) for each in heard if "prompt" in str(each.message)]


SITUATIONS = {
    "anchor in another case": (Concept("A Red Circle", A, anchor="a red circle"), Concept("a red square", B)),
    "anchor with a space more": (Concept("a red circle ", A, anchor="a red circle"), Concept("a red square", B)),
    "forgotten and retained in another case": (Concept("a red circle", A), Concept("A RED circle", B)),
}
bad = []
for name, (forget, retain) in SITUATIONS.items():
    found = attempt(forget, retain)
    if found and not found[1]:
        bad.append((name, "forget losses", [each.get("forget_loss") for each in found[0].history]))
done(bad, bad)
