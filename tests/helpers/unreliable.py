"""A method that fails in different ways until a file is there; a module of its own, so that workers can import it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from untrain.methods.finetune import Finetune


@dataclass(frozen=True)
class Unreliable(Finetune):
    """Finetuning, once it has been repaired."""

    name: ClassVar[str] = "unreliable"
    title: ClassVar[str] = "fails until it is repaired"

    repaired: str = ""
    """A file; where it is, all is well."""
    failure: str = "raise"
    """What happens where it is not: "raise", or "die" without a word."""

    def start(self, problem, engine):
        """Fails, or begins."""
        if not Path(self.repaired).exists():
            if self.failure == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("of something")
        return super().start(problem, engine)
