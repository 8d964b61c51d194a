"""What only the person at the keyboard may allow: no recipe, run folder, checkpoint or hub repository can."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Permissions:
    """What is allowed beyond what a file may ask for; each is a flag of the command line, such as --allow-code."""

    code: bool = False
    """Run the code that a recipe or run folder names as MODULE:NAME."""
    links: bool = False
    """Follow links that lead out of a folder of data or of a model."""
    large: bool = False
    """Do work beyond the limits that a recipe is held to."""
    reading: bool = False
    """Let other users of the machine read a run folder that is made."""

    @property
    def flags(self) -> list[str]:
        """The flags that allow as much: a command that another one starts must be given them again."""
        return [flag_of(each.name) for each in fields(self) if getattr(self, each.name)]


NONE = Permissions()
"""Nothing but what a file may ask for."""


def flag_of(name: str) -> str:
    """Returns the flag that gives a permission, such as "--allow-code"."""
    return f"--allow-{name}"
