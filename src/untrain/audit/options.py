"""How much a domain's attacks may do: options of an audit on the command line."""

from collections.abc import Mapping
from typing import Any

from untrain.domain import Domain
from untrain.runs.flags import field_lines, split, value
from untrain.settings import rows_of, settings_of

FLAG = "--audit."
"""What stands before an option's name."""
SWITCHES = ("keep", "exchangeable", "per_sample", "no_relearning")
"""Fields of a plan that a flag without a value sets, such as --per-sample."""


def take_options(words: list[str]) -> dict[str, str]:
    """Takes `--audit.NAME VALUE` and `--audit.NAME=VALUE` out of the words of a command: name → text.

    Raises:
        SettingError: if one has no value.
    """
    found: dict[str, str] = {}
    while (i := next((i for i, word in enumerate(words) if word.startswith(FLAG)), None)) is not None:
        end = i + 1 if "=" in words[i] else i + 2
        found |= dict(split(words[i:end]))
        del words[i:end]
    return {name.removeprefix(FLAG[2:]).replace("-", "_"): text for name, text in found.items()}


def read_options(domain: type[Domain], given: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of options that were given as text; of unknown ones, which `plan_of` refuses, the text."""
    known = settings_of(domain.AuditOptions)
    return {name: value(known[name], text) if name in known else text for name, text in given.items()}


def options_help(domain: type[Domain]) -> list[str]:
    """Returns a line or more for each option of a domain's audits."""
    rows = rows_of(domain.AuditOptions, FLAG[2:])
    return [line for row in rows for line in field_lines(row)]
