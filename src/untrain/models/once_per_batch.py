"""A model that answers the same question once."""

from typing import Any

from torch import nn


class OncePerBatch(nn.Module):
    """Runs a model once for the very same arguments, so that what is computed from a batch shares one pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.last: tuple[list[Any], Any] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, a former one where these arguments are the last ones."""
        given = [*args, *kwargs, *kwargs.values()]
        if self.last is None or not _identical(self.last[0], given):
            self.last = given, self.model(*args, **kwargs)
        return self.last[1]

    def __getattr__(self, name: str) -> Any:
        """Whatever else a task looks up is the model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


def _identical(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y or (isinstance(x, str) and x == y) for x, y in zip(a, b, strict=True))
