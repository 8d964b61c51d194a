"""Which class is meant, by number, name or synonym; and data under the numbers that a model gives to classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from untrain.data.samples import Relabelled
from untrain.data.source import Source
from untrain.errors import DataError, SettingError, UnknownName


def class_named(labels: Sequence[str], name: str) -> int:
    """The number of a class, by its whole name or by one of its synonyms that no other class has.

    Raises:
        UnknownName: if no class has the name (guesses what was meant), or several have.
    """
    synonyms = [_synonyms(label) for label in labels]
    whole = [number for number, label in enumerate(labels) if label == name]
    found = whole or [number for number, names in enumerate(synonyms) if name in names]
    if len(found) == 1:
        return found[0]
    if found:
        several = "; ".join(f"{number} {labels[number]}" for number in found)
        raise UnknownName(f"{len(found)} classes are called {name!r}: {several}. Give the number or the whole name.")
    close = get_close_matches(name, sorted(set().union(*synonyms)), n=3)
    guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise UnknownName(f"none of the {len(labels)} classes is called {name!r}.{guess}")


def class_number(names: Sequence[str], word: str) -> int:
    """The number of a class, by its name, by one of its synonyms, or by its number.

    Raises:
        UnknownName: if there is no such class.
    """
    if word.isdecimal() and word not in names and int(word) < len(names):
        return int(word)
    return class_named(names, word)


@dataclass(frozen=True)
class Matching:
    """Which of a model's classes the data's classes are.

    Attributes:
        numbers: the model's number of each of the data's classes.
        names: of the model's classes.
        notes: what was taken for granted, as sentences.
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    def renumber(self, source: Source) -> Source:
        """Returns a source of the same data under the model's numbers and names."""
        same = self.numbers == tuple(range(len(self.names))) and tuple(source.classes) == self.names
        return source if same else Relabelled(source, self.numbers, self.names)


def match_classes(
    classes: Sequence[str], names: Sequence[str], chosen: Mapping[str, str | int] | None = None, *, remedy: str
) -> Matching:
    """Finds the data's classes among a model's, by their names.

    In this order: as the user says; the whole name; a synonym ("tench" of "tench, Tinca tinca"); for a name of digits
    alone, the number; the name whatever its case and with _ or - for a blank, where only one class has it.

    Args:
        classes: names of the data's classes.
        names: of the model's, by number; each may list synonyms with commas between.
        chosen: the data's name → the model's name or number.
        remedy: what to do where a class cannot be found, as a sentence.

    Raises:
        UnknownName: names at most three classes that are none of the model's. DataError: if two classes are one.
        SettingError: if `chosen` names a class that the data have not.
    """
    chosen, notes = chosen or {}, []
    strange = [name for name in chosen if name not in classes]
    if strange:
        raise SettingError(
            f"model.labels names {strange[0]!r}, which is no class of the data: {_some([*map(repr, classes)])}."
        )
    found: list[int | None] = []
    for number, name in enumerate(classes):
        same = list(names[number : number + 1]) == [name]  # two can share a name
        found.append(number if same and name not in chosen else _find(names, str(chosen.get(name, name))))
    missing = [_guess(name, names) for name, number in zip(classes, found, strict=True) if number is None]
    if missing:
        raise UnknownName(
            f"{len(missing)} of the data's {len(classes)} classes are none of the model's {len(names)}: "
            f"{_some(missing)}. The model's are {_some([*map(repr, names)])}. {remedy}"
        )
    numbers = tuple(number for number in found if number is not None)
    _check_apart(classes, numbers, chosen, names, remedy)
    by_number = [name for name in classes if name.isdecimal() and name not in names and name not in chosen]
    if by_number:
        pairs = [f"{name} is {names[int(name)]!r}" for name in by_number[:3]]
        notes.append(f"the data's classes are numbers, taken as the model's own: {', '.join(pairs)}{_more(by_number)}")
    loose = [name for name in classes if name not in chosen and name not in by_number and not _is_name(names, name)]
    if loose:
        of = dict(zip(classes, numbers, strict=True))
        pairs = [f"{name!r} is {names[of[name]]!r}" for name in loose[:3]]
        notes.append(f"classes matched by names that differ in case or blanks alone: {', '.join(pairs)}{_more(loose)}")
    return Matching(numbers, tuple(names), notes)


def _find(names: Sequence[str], word: str) -> int | None:
    """A class's number; None where no class is called so, whatever the case."""
    if word.isdecimal() and word not in names:
        return int(word) if int(word) < len(names) else None
    if _is_name(names, word):
        return class_named(names, word)
    loose = [number for number, name in enumerate(names) if _loose(word) in map(_loose, _synonyms(name))]
    if len(loose) > 1:
        several = "; ".join(f"{number} {names[number]}" for number in loose[:3])
        raise UnknownName(f"{len(loose)} classes could be {word!r}: {several}. Give the number or the whole name.")
    return loose[0] if loose else None


def _synonyms(name: str) -> set[str]:
    return {name, *(part.strip() for part in name.split(","))}


def _is_name(names: Sequence[str], word: str) -> bool:
    return any(word in _synonyms(name) for name in names)


def _loose(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _check_apart(
    classes: Sequence[str],
    numbers: Sequence[int],
    chosen: Mapping[str, str | int],
    names: Sequence[str],
    remedy: str,
) -> None:
    """Two of the data's classes are one of the model's only where the user says so."""
    taken: dict[int, str] = {}
    for name, number in zip(classes, numbers, strict=True):
        if number in taken and not (name in chosen and taken[number] in chosen):
            raise DataError(
                f"the data's classes {taken[number]!r} and {name!r} are both the model's class "
                f"{names[number]!r}. {remedy}"
            )
        taken[number] = name


def number_positions(names: Sequence[str]) -> str | None:
    """Says that classes are called by numbers which are not their positions; None where that is not so."""
    if not all(name.isdecimal() for name in names):
        return None
    other = [(name, number) for number, name in enumerate(names) if int(name) != number]
    if not other:
        return None
    name, number = other[0]
    return f"the data's classes are called by numbers that are not their positions: {name!r} is number {number}"


def _guess(name: str, names: Sequence[str]) -> str:
    """A name that was not found, with the one that may have been meant."""
    close = get_close_matches(name, sorted(set().union(*map(_synonyms, names))), n=1)
    return f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (" …" if len(texts) > 3 else "")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""
