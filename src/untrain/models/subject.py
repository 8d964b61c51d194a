"""The subject: a thin wrapper around what a user hands over, made by the library itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from untrain.errors import ModelError, convert_errors
from untrain.lazy import nn, torch
from untrain.models import checkpoints
from untrain.models.adapters import Adapters, count_base, without_adapters
from untrain.models.copies import copy_module, shallow_copy
from untrain.models.layout import match_layout_
from untrain.models.precision import widen_
from untrain.models.saving import has_adapters
from untrain.types import GenerativeTask, Task


class Subject:
    """A module to unlearn.

    Attributes:
        module: what is trained and changed.
        init: makes the same architecture with new weights; None: see `fresh`.
        peak_lr: the learning rate that the module was trained with at its peak, where a checkpoint or recipe tells.
        train_steps: how many steps the module was trained for, where a recipe or its user tells.
        adapters: low-rank adapters that are trained in the place of weights; None: the weights are.
        shares: whether its parameters lie in the memory of another module's, see `copy`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        init: Callable[[], nn.Module] | None = None,
        peak_lr: float | None = None,
        train_steps: int | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ModelError(f"model must be a torch.nn.Module, not {type(module).__name__}.")
        self.module = module
        self.init = init
        self.peak_lr = peak_lr
        self.train_steps = train_steps
        self.adapters = adapters
        self.shares = False

    def copy(self, *, share: bool = False) -> Subject:
        """The same subject around a deep copy of the module; gradients do not come along.

        Args:
            share: whether the copy's parameters lie in the same memory: for what gives them other data and writes
                into none, as adapters are trained and merged, and where nobody trains either module afterwards.
        """
        how: dict[str, Any] = {"init": self.init, "peak_lr": self.peak_lr, "train_steps": self.train_steps}
        made = Subject(shallow_copy(self.module) if share else copy_module(self.module), **how, adapters=self.adapters)
        made.shares = share
        return made

    def fresh(self, seed: int) -> nn.Module:
        """The same architecture with new weights, on the same device, in training mode.

        From `init` where it was given; else from the configuration of a model of transformers or diffusers; else by
        calling `reset_parameters` on every layer of a copy.

        Args:
            seed: of the new weights; global random state is left as it was.

        Raises:
            ModelError: names the parameters that cannot be renewed.
        """
        module, stuck = self.renew(seed)
        if stuck:
            raise ModelError(
                f"cannot make this architecture with new weights: no reset_parameters renews {', '.join(stuck[:8])}"
                f"{' …' if len(stuck) > 8 else ''}. Pass init=, a function that returns a new model."
            )
        return module

    def renew(self, seed: int) -> tuple[nn.Module, list[str]]:
        """As `fresh`, and the names of parameters and buffers that nothing renews, which the module has as they are."""
        if self.adapters is not None and has_adapters(self.module):
            return Subject(without_adapters(self.module), init=self.init).renew(seed)
        kind: Any = type(self.module)
        stuck: list[str] = []
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            if self.init is not None:
                with convert_errors(ModelError, "init= cannot make a new model"):
                    module = self.init()
                if not isinstance(module, nn.Module):
                    raise ModelError(f"init= must return a torch.nn.Module; it returned {type(module).__name__}.")
                self._check_alike(module, "init= returned", "It must build the model as it was built for training.")
            elif hasattr(self.module, "config") and hasattr(kind, "_from_config"):  # of transformers
                module = kind._from_config(copy.deepcopy(self.module.config))
                self._check_alike(module, "its configuration builds", _BUILT)
            elif hasattr(self.module, "config") and hasattr(kind, "from_config"):  # of diffusers
                module = kind.from_config(copy.deepcopy(self.module.config)).to(self.module.dtype)
                self._check_alike(module, "its configuration builds", _BUILT)
            else:
                with convert_errors(ModelError, "the model cannot be copied and renewed; pass init="):
                    module, stuck = _renewed(copy_module(self.module))
                    own = self.module.state_dict()
                    module.load_state_dict({name: own[name] for name in stuck if name in own}, strict=False)
        widen_(module)
        match_layout_(module, self.module)
        return module.to(device).train(), stuck

    def _check_alike(self, module: nn.Module, what: str, remedy: str) -> None:
        """The same parameters and buffers, by name and shape; what a message begins and ends with."""
        own, new = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (self.module, module))
        other = [name for name in {**own, **new} if own.get(name) != new.get(name)]
        if other:
            raise ModelError(
                f"{what} another architecture: {', '.join(other[:3])}{' …' if len(other) > 3 else ''} differ. {remedy}"
            )

    def save(self, path: Path | str, metadata: dict[str, Any] | None = None, *, content: str | None = None) -> None:
        """Writes the weights as safetensors, whole or not at all; arguments as of `checkpoints.save`."""
        checkpoints.save(self.module, path, metadata, content=content)

    def defaults(self, task: Task) -> dict[str, Any]:
        """Settings that fit this kind of model, for methods that are not told them.

        Generators are trained on by Adam at a rate that their large batches of noise bear: it was chosen on digits,
        for a UNet and a transformer (benchmarks/README.md); published runs on larger ones have 1e-4. What is told of a
        text by cross-attention is of any size, and the rate that fits Adam falls with the width of a model (Yang et al.
        2022, *Tensor Programs V*), so with the root of its weights: 3e-4 up to a million, and at the 860 million of
        Stable Diffusion the published 1e-5. Adapters below which such weights are frozen have ten times that, for the
        product of two small factors moves less than they do: 1e-4 there, as is usual. Classifiers with layer
        normalisation (transformers) are trained on by AdamW, as they were made; others by SGD with momentum.
        """
        if isinstance(task, GenerativeTask):
            return {"optimizer": {"name": "adam", "lr": self._generator_rate()}}
        kinds = {type(module).__name__ for module in self.module.modules()}
        adaptive = any("LayerNorm" in kind or "RMSNorm" in kind for kind in kinds)
        if adaptive:
            return {"optimizer": {"name": "adamw", "weight_decay": 0.05}}
        return {"optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}}

    def _generator_rate(self) -> float:
        config: Any = getattr(self.module, "config", None)
        if all(getattr(config, name, None) is None for name in _TEXT_WIDTHS):
            return 3e-4
        rate = 3e-4 * min(1.0, (1e6 / count_base(self.module)) ** 0.5)
        return float(f"{rate * (ADAPTED if has_adapters(self.module) else 1):.2g}")


_TEXT_WIDTHS = ("cross_attention_dim", "joint_attention_dim")
"""What a configuration calls the width of texts that a generator is told."""
ADAPTED = 10
"""Times the rate of weights that adapters of them are trained at."""
_BUILT = "Merge what was added to the model, such as adapters, or pass init=, a function that returns a new model."


def _renewed(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """Resets every layer that can, of which all is trained then; the names of what no layer renews, which is NaN."""
    stuck = []
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.fill_(math.nan)  # to see which are reached
    for name, layer in module.named_modules():
        if callable(getattr(layer, "reset_parameters", None)):
            layer.reset_parameters()
        elif callable(getattr(layer, "_reset_parameters", None)):
            layer._reset_parameters()
        else:
            own = [p for p, _ in layer.named_parameters(recurse=False)]
            own += [b for b, _ in layer.named_buffers(recurse=False)]
            stuck += [f"{name}.{p}" if name else p for p in own]
    stuck += [n for n, p in module.named_parameters() if n not in stuck and bool(p.isnan().any())]
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module, stuck
