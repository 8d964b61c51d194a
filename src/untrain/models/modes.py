"""Training mode of a model of which a part is frozen: what is frozen keeps its statistics too."""

from __future__ import annotations

from untrain.errors import SettingError
from untrain.lazy import nn


def held_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers whose statistics belong to frozen parameters, by name; they stay in evaluation mode.

    Batch norm moves its running statistics in training mode, and spectral norm its vectors, whether or not a gradient
    reaches the layer. A layer is held if it has buffers and none of its own parameters is trained; of a layer without
    parameters, the layer with parameters that is registered before it decides, else the first one after it.

    Dropout and other layers without buffers are not held: they leave nothing behind.
    """
    found: dict[str, nn.Module] = {}
    undecided: dict[str, nn.Module] = {}
    before: bool | None = None
    for name, layer in module.named_modules():
        own = [parameter.requires_grad for parameter in layer.parameters(recurse=False)]
        if own:
            before = any(own)
            found |= {} if before else undecided
            undecided = {}
        if not any(True for _ in layer.buffers(recurse=False)):
            continue
        if before is None:
            undecided[name] = layer
        elif not before:
            found[name] = layer
    return found


def set_training(module: nn.Module) -> nn.Module:
    """Puts a module into training mode, but for the layers that are held; returns it."""
    module.train()
    for layer in held_layers(module).values():
        layer.training = False
    return module


def statistics_note(module: nn.Module) -> str | None:
    """Says which layers are held and would otherwise have moved; None where there is none."""
    named = [name or "the model" for name, layer in held_layers(module).items() if _moves(layer)]
    if not named:
        return None
    shown = ", ".join(named[:3]) + (", …" if len(named) > 3 else "")
    return f"running statistics of what is frozen stay as they are, of {len(named)} of its layers: {shown}"


def check_separable(module: nn.Module) -> None:
    """Refuses a model whose samples influence each other in training, where batches are to pass in parts.

    Raises:
        SettingError: names the first layer that normalises by its batch, or moves with every pass.
    """
    held = held_layers(module)
    for name, layer in module.named_modules():
        batched = isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
        if batched or (_moves(layer) and name not in held):
            raise SettingError(
                f"microbatch: {name or 'the model'}, a {type(layer).__name__}, looks at a whole batch in training, "
                "and in parts it would give something else. Leave microbatch out, and lower batch_size instead."
            )


def _moves(layer: nn.Module) -> bool:
    """Whether a layer of torch keeps statistics that training mode moves."""
    return any(hasattr(layer, name) for name in ("running_mean", "num_batches_tracked", "weight_u", "_u"))
