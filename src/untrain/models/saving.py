"""Whether a library's own saving would write all that is unlearned, under names by which it is found again."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

from untrain.errors import ModelError
from untrain.lazy import nn, torch
from untrain.models.kinds import plain_module

MERGE = "merge them into the model before: model = model.merge_and_unload().requires_grad_(True)"


def configured_names(module: nn.Module) -> set[str] | None:
    """The names of weights that a configuration of diffusers or transformers builds; None for other modules.

    Nothing is computed: the module is built without values.
    """
    plain: Any = plain_module(module)
    kind: Any = type(plain)
    if not hasattr(plain, "config") or not hasattr(plain, "save_pretrained"):
        return None
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        if _is_transformers(plain):
            return set(kind._from_config(plain.config).state_dict())
        if hasattr(kind, "from_config"):  # of diffusers
            known = inspect.signature(kind.__init__).parameters
            return set(kind(**{key: value for key, value in plain.config.items() if key in known}).state_dict())
    return None


def _is_transformers(module: nn.Module) -> bool:
    return hasattr(type(plain_module(module)), "_from_config")


def check_names(module: nn.Module) -> None:
    """Refuses a module of diffusers whose weights have other names than those that its configuration builds.

    Pruning and weight normalisation give layers other names, and adapters that are merged or switched off do. diffusers
    would save such weights, and leave them out when it loads them. Adapters that have an effect are trained, and
    `save_note` says how they are saved.

    Raises:
        ModelError: names one, and what to do.
    """
    expected = configured_names(module)
    own = set(plain_module(module).state_dict())
    if tuners(module) and not is_idle(module):
        own = {name.replace(".base_layer.", ".") for name in own if ".lora_" not in name}
    if expected is None or own == expected or _is_transformers(module):
        return
    other = sorted(own - expected) or sorted(expected - own)
    if has_adapters(module):
        merged = any(getattr(layer, "merged", False) for layer in tuners(module))
        what = "adapters (LoRA) in it"
        remedy = f"Take them in first: {'' if merged else 'pipeline.fuse_lora(); '}pipeline.unload_lora_weights()"
        remedy += "; where they had frozen all else, train it again by requires_grad_(True)"
    elif any("_ip." in name or name.startswith("encoder_hid_proj.") for name in other):
        what, remedy = "an IP-adapter in it", "Take it out first: pipeline.unload_ip_adapter()"
    else:
        what, remedy = "weights that its configuration does not build", "Undo what renamed them, such as pruning"
    raise ModelError(
        f"the {type(plain_module(module)).__name__} has {what}, such as {other[0]}, which would be lost when it is "
        f"saved and loaded. {remedy}."
    )


def save_note(module: nn.Module) -> list[str]:
    """Says how adapters within a module of diffusers are saved; nothing of other modules."""
    plain = plain_module(module)
    if not has_adapters(plain) or _is_transformers(plain) or configured_names(plain) is None:
        return []
    return [
        "the adapters that the model came with were trained, and save_pretrained of diffusers would lose them: save "
        "them by save_lora(folder) of the result, which load_lora_weights loads"
    ]


def is_idle(module: nn.Module) -> bool:
    """Whether adapters of a module are merged or switched off, so that to train them would change nothing."""
    return any(layer.merged or layer.disable_adapters for layer in tuners(module))


def check_saved(module: nn.Module) -> None:
    """Refuses trained weights that the library of a model with adapters would not save; warns of other names.

    Such a model is saved as its adapters alone.

    Raises:
        ModelError: if weights beside the adapters are trained, or adapters that have no effect.
    """
    if has_adapters(module):
        _check_adapters(module)
        return
    expected = configured_names(module) if _is_transformers(module) else None
    other = sorted(set(module.state_dict()) ^ (expected or set()))
    if expected is not None and other:
        warnings.warn(
            f"the configuration of {type(module).__name__} builds other weights ({other[0]}): save the result by "
            "torch.save(model.state_dict(), …), since from_pretrained does not find what save_pretrained writes.",
            stacklevel=3,
        )


def has_adapters(module: nn.Module) -> bool:
    """Whether layers of the library peft are in a module."""
    return bool(tuners(module))


def tuners(module: nn.Module) -> list[Any]:
    """The layers of the library peft in a module."""
    if "peft" not in sys.modules:  # nothing of a library that was never imported can be there
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def _check_adapters(module: nn.Module) -> None:
    if is_idle(module):
        raise ModelError(
            "adapters of the model are merged or switched off, and to train them would change nothing: unmerge or "
            f"enable them, or {MERGE}."
        )
    saved = _saved_by_peft(module)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    lost = [name for name, parameter in trained.items() if saved is not None and parameter.data_ptr() not in saved]
    if lost and hasattr(module, "save_pretrained"):
        raise ModelError(
            f"{len(lost)} weights beside the adapters would be trained, such as {lost[0]}, and peft saves adapters "
            f"alone: their change would be lost. Freeze them (leave parts out), or {MERGE}."
        )


def _saved_by_peft(module: nn.Module) -> set[int] | None:
    """Where the weights lie that peft writes; None where it does not know the module's adapters by name."""
    from peft import get_peft_model_state_dict

    found: set[int] = set()
    known: Any = getattr(module, "peft_config", None)
    if known is None:
        return None
    for name in known:
        kept = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
        found |= {tensor.data_ptr() for tensor in kept.values()}
    return found
