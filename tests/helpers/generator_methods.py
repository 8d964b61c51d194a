"""Every method with settings that take a moment on a tiny generator."""

from untrain.methods import make
from untrain.methods.base import Optimizer
from untrain.sampling import Sampler

ADAM = Optimizer("adam", 1e-3)
SFRON = {
    "steps": 3, "retain_steps": 2, "optimizer": ADAM, "forget_optimizer": Optimizer("adam", 1e-3), "calibrate": False,
}  # fmt: skip
AMNESIA = {"replay_samples": 10, "fisher_samples": 4, "fisher_timesteps": 4, "sampler": Sampler(steps=4)}
PLAIN = (
    *("random-label", "proximal-gradient", "bad-teacher", "scrub", "neggrad-plus", "gradient-ascent", "l1-sparse"),
    *("finetune", "retrain", "shrink-perturb", "masked-small-gradients", "noisy-finetune", "eu-k", "cf-k"),
)
SETTINGS = {
    "sfron": SFRON,
    "shrink-sfron": {**SFRON, "keep": 0.8},
    "sfron-ascent": {**SFRON, "objective": "ascent"},
    "sfron-redirect": {**SFRON, "objective": "redirect"},
    "sfron-joined": {**SFRON, "online": False, "forget_optimizer": None},
    "salun": {"steps": 5, "optimizer": ADAM, "retain_weight": 1e-3},
    "ssd": {},
    "selective-amnesia": {"steps": 5, **AMNESIA},
    "concept-ablation": {"steps": 5, "samples": 3, "images": 6, "sampler": Sampler(steps=4, guidance_scale=3.0)},
    "uce": {},
    "leco": {"steps": 5, "samples": 3, "sampler": Sampler(steps=4, guidance_scale=3.0)},
    "esd": {"steps": 5, "samples": 3, "sampler": Sampler(steps=4, guidance_scale=3.0)},
    **{name: {"steps": 5, "optimizer": ADAM} for name in PLAIN},
}
NAMES = tuple(SETTINGS)
SHARED = ("sfron", "salun", "proximal-gradient", "selective-amnesia", "esd")


def method(name):
    return make("sfron" if name.startswith("sfron") else name, SETTINGS[name])
