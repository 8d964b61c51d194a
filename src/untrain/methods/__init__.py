"""Methods: ways to unlearn, one file each, on one loop."""

from collections.abc import Mapping
from typing import Any

from untrain.callable_package import make_callable
from untrain.errors import SettingError, UnknownName, unknown
from untrain.methods.amun import AMUN
from untrain.methods.bad_teacher import BadTeacher
from untrain.methods.base import Method
from untrain.methods.cf_k import CatastrophicForgettingOfLastLayers
from untrain.methods.concept_ablation import ConceptAblation
from untrain.methods.delete import Delete
from untrain.methods.esd import ESD
from untrain.methods.eu_k import ExactUnlearningOfLastLayers
from untrain.methods.finetune import Finetune
from untrain.methods.gradient_ascent import GradientAscent
from untrain.methods.installed import INSTALLED
from untrain.methods.l1_sparse import L1Sparse
from untrain.methods.leco import LECO
from untrain.methods.lotus import LoTUS
from untrain.methods.mace_refine import MACERefine
from untrain.methods.masked_small_gradients import MaskedSmallGradients
from untrain.methods.neggrad_plus import NegGradPlus
from untrain.methods.noisy_finetune import NoisyFinetune
from untrain.methods.proximal_gradient import ProximalGradient
from untrain.methods.random_label import RandomLabel
from untrain.methods.regun import ReGUn
from untrain.methods.retrain import Retrain
from untrain.methods.salun import SalUn
from untrain.methods.scrub import Scrub
from untrain.methods.selective_amnesia import SelectiveAmnesia
from untrain.methods.sfron import SFRon
from untrain.methods.shrink_perturb import ShrinkPerturb
from untrain.methods.shrink_sfron import ShrinkSFRon
from untrain.methods.ssd import SSD
from untrain.methods.transpose import Transpose
from untrain.methods.uce import UCE
from untrain.settings import describe

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(SFRon, SalUn, RandomLabel, ProximalGradient, BadTeacher, Scrub, NegGradPlus, GradientAscent, SSD, L1Sparse),
        *(ShrinkSFRon, ShrinkPerturb, MaskedSmallGradients, Transpose, NoisyFinetune),
        *(ExactUnlearningOfLastLayers, CatastrophicForgettingOfLastLayers),
        *(AMUN, Delete, ReGUn, LoTUS),
        *(Finetune, SelectiveAmnesia, ESD, LECO, ConceptAblation, UCE, MACERefine, Retrain),
    )
}
"""Name → class of the built-in ones; a method's settings are its fields."""
WITHOUT_FORGET_SET = ShrinkPerturb.name
"""Of the methods that look at no forgotten sample, the one that is advised."""


def make(method: str | type[Method] | Method, settings: Mapping[str, Any]) -> Method:
    """The method with these settings, from its name, its class, or an object that already has some.

    Raises:
        UnknownName: lists the known methods.
        SettingError: a setting is unknown (the known ones are listed), out of range, or contradicts another; or the
            method's distribution is broken.
    """
    if isinstance(method, Method):
        if settings:
            raise SettingError(f"a {method.name} object already has its settings: leave out {', '.join(settings)}.")
        return method
    chosen = find(method) if isinstance(method, str) else method
    if not (isinstance(chosen, type) and issubclass(chosen, Method)):
        raise SettingError(
            f"method must be a name, a class derived from Method, or such an object, not {describe(method)}."
        )
    return chosen.from_settings(dict(settings))


def find(name: str) -> type[Method]:
    """The class of the method called `name`: built in, or of a distribution with the entry point `untrain.methods`.

    Raises:
        UnknownName: lists the known methods.
        SettingError: if the distribution that brings it is broken, or its name is another method's; names it.
    """
    others = INSTALLED.installed()
    if name in others:
        return INSTALLED.load(name, others[name], METHODS)
    if name not in METHODS:
        raise UnknownName(unknown("method", name, [*METHODS, *others]))
    return METHODS[name]


def methods() -> dict[str, type[Method]]:
    """The methods that can be used, by name: the built-in ones, then those of other distributions.

    One that cannot be used is left out; `unusable` says why, and so does whatever asks for it by name.
    """
    return _sorted_out()[0]


def unusable() -> dict[str, str]:
    """Methods of other distributions that cannot be used: name → which distribution, why, and what to do."""
    return _sorted_out()[1]


def _sorted_out() -> tuple[dict[str, type[Method]], dict[str, str]]:
    usable, reasons = dict(METHODS), {}
    for name, entries in sorted(INSTALLED.installed().items()):
        try:
            usable[name] = INSTALLED.load(name, entries, METHODS)
        except SettingError as error:
            usable.pop(name, None)
            reasons[name] = str(error)
    return usable, reasons


make_callable(__name__)
