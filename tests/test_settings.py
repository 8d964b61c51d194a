"""Settings of dataclasses: types, ranges, nesting and meaning."""

import inspect
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from annotated_types import Ge, Interval
from pydantic import Field

from untrain.errors import SettingError, UnknownName
from untrain.methods import make as make_method
from untrain.methods.base import Optimizer
from untrain.methods.retrain import Retrain
from untrain.methods.sfron import SFRon
from untrain.settings import (
    Findings,
    Setting,
    build,
    check_arguments,
    describe,
    make,
    meanings_of,
    rows_of,
    settings_of,
)


@dataclass(frozen=True)
class Inner:
    """Inner settings."""

    shorthand: ClassVar[str] = "text"

    text: str = "a"
    """A text."""
    count: Annotated[int, Ge(1)] = 1
    """A count."""

    def __post_init__(self) -> None:
        """Checks the text."""
        if self.text == "no":
            raise SettingError("text must not be 'no'.")


@dataclass(frozen=True)
class Outer:
    """Outer settings."""

    must: int
    """Must be given."""
    rate: Annotated[float, Field(gt=0)] = 0.5
    """A rate."""
    share: Annotated[float, Interval(ge=0, lt=1)] | None = None
    mode: Literal["one", "two"] = "one"
    inner: Inner = Inner(count=3)
    other: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    names: list[str | int] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    made: int = field(default=0, init=False)


def flaws(**given):
    findings = Findings()
    assert build(Outer, given, findings) is None
    return [(flaw.name, flaw.error) for flaw in findings.flaws]


def test_settings_are_put_over_the_defaults_at_every_depth():
    found = make(
        Outer,
        {
            "must": 1,
            "rate": 2,
            "inner": {"text": "b"},
            "other": {},
            "many": ["x", {"count": 2}, Inner("z")],
            "names": [1, "b"],
        },
    )
    assert found == Outer(
        1, 2.0, inner=Inner("b", 3), other=Inner(), many=[Inner("x"), Inner(count=2), Inner("z")], names=[1, "b"]
    )
    assert isinstance(found.rate, float)
    assert make(Outer, {"must": 1, "inner": None, "other": None}) == Outer(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("must", True), ("must", "1"), ("must", 1.0), ("rate", 0), ("rate", "1"), ("rate", True),
        ("rate", float("inf")), ("share", 1), ("share", float("nan")), ("mode", "three"), ("inner", 3),
        ("other", "a"), ("many", "x"), ("names", 3), ("names", [1.5]), ("free", [1]), ("free", {1: 2}),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_out_of_range_is_named(name, value):
    assert flaws(**{"must": 1, name: value}) == [(name, SettingError)]


def test_another_optimiser_does_not_take_the_rest_of_the_default():
    own = make_method(Retrain, {"optimizer": {"lr": 0.3}}).optimizer
    other = make_method(Retrain, {"optimizer": {"name": "adamw", "lr": 0.001}}).optimizer
    assert (own.name, own.lr, own.momentum, own.weight_decay) == ("sgd", 0.3, 0.9, 5e-4)
    assert (other.name, other.lr, other.momentum, other.weight_decay) == ("adamw", 0.001, 0.0, 0.0)


def test_all_that_is_wrong_is_found_with_its_place():
    found = flaws(
        rate=-1, rat=1, inner={"text": "no"}, other={"cont": 1}, many=[{"count": 0}, 3], limits={"a": 1, "b": "c"}
    )
    assert found == [
        *[("rat", UnknownName), ("rate", SettingError)][::-1],
        *[("inner.text", SettingError), ("other.cont", UnknownName), ("many.0.count", SettingError)],
        *[("many.1", SettingError), ("limits.b", SettingError), ("must", SettingError)],
    ]


def test_a_type_is_said_in_words():
    words = {name: setting.words for name, setting in settings_of(Outer).items()}
    assert words["must"] == "a whole number"
    assert words["rate"] == "a number above 0"
    assert words["share"] == "a number from 0 and below 1 or null"
    assert words["mode"] == "'one' or 'two'"
    assert words["inner"] == "a mapping of text, count to values"
    assert words["other"].endswith("or null")
    assert "text" in words["many"]
    assert Setting("x", bool).words == "true or false"
    assert "made" not in words


def test_rows_and_meanings_come_from_docstrings():
    assert meanings_of(Outer)["rate"] == "A rate."
    rows = {row.name: row for row in rows_of(Outer)}
    assert rows["inner"].is_section
    assert rows["inner"].meaning == "Inner settings."
    assert rows["inner.count"].default == 3
    assert rows["other.count"].default == 1
    assert meanings_of(SFRon)["alpha"].startswith("α")
    assert meanings_of(Optimizer)["lr"].startswith("Learning rate")


def test_settings_in_python_are_checked_alike():
    found = make_method("sfron", {"alpha": np.float32(2), "steps": np.int64(3), "optimizer": Optimizer("sgd", 0.1)})
    assert (found.alpha, found.steps, found.optimizer.lr) == (2.0, 3, 0.1)
    assert type(found.steps) is int
    assert make_method("sfron", {"forget_optimizer": {"lr": 0.5}}).forget_optimizer == Optimizer("adam", 0.5)
    for wrong, culprit in [
        ({"alhpa": 1}, r"setting of sfron 'alhpa'.*'alpha'\?"),
        ({"alpha": "2"}, r"alpha .*a number.*'2'"),
        ({"optimizer": 3}, r"optimizer .*mapping of name, lr.*3"),
        ({"optimizer": {"lrr": 3}}, r"'optimizer.lrr'"),
        ({"gamma": -1}, r"gamma .*-1"),
    ]:
        with pytest.raises(SettingError, match=culprit):
            make_method("sfron", wrong)


# ── what code is called with ────────────────────────────────────────────────────────────────────────────────────


@check_arguments
def mix(
    data: Any, *rest: Any, share: Annotated[float, Ge(0)] = 0.5, place: str | Path | None = None, **more: Any
) -> Any:
    """Gives back what it was given."""
    return data, rest, share, place, more


@check_arguments
@dataclass(frozen=True)
class Checked:
    """Checked whoever makes it."""

    count: Annotated[int, Ge(1)] = 1
    inner: Inner = Inner()
    rates: Sequence[float] | None = None


def test_arguments_are_checked_by_their_types():
    given = object()
    assert mix(given, 1, 2, share=np.float32(2), place=Path("x"), other=3) == (
        given,
        (1, 2),
        2.0,
        Path("x"),
        {"other": 3},
    )
    assert type(mix(given, share=np.float64(2))[2]) is float
    for wrong, culprit in [
        ({"share": -1}, "share must be a number from 0, not -1"),
        ({"share": float("nan")}, "share must be a number from 0, not nan"),
        ({"share": 10**5000}, "share must be a number from 0"),
        ({"place": 3}, "place must be text or None, not 3"),
        ({"place": Path("a\0b")}, "place holds a NUL character"),
        ({"data": 1}, "mix: multiple values"),
    ]:
        with pytest.raises(SettingError, match=culprit):
            mix(given, **wrong)


def test_a_decorated_function_and_class_are_what_they_were():
    assert mix.__doc__ == "Gives back what it was given."
    assert list(inspect.signature(mix).parameters) == ["data", "rest", "share", "place", "more"]
    assert list(inspect.signature(Checked).parameters) == ["count", "inner", "rates"]
    assert replace(Checked(2), rates=(0.5, 1)) == Checked(count=2, rates=(0.5, 1))
    assert pickle.loads(pickle.dumps(Checked(2))) == Checked(2)


def test_a_class_checks_what_it_is_made_of():
    assert Checked(np.int64(3)).count == 3
    assert type(Checked(np.int64(3)).count) is int
    assert Checked(inner={"text": "x"}).inner == Inner(text="x")
    for wrong, culprit in [
        ({"count": 0}, "count must be a whole number from 1, not 0"),
        ({"count": 2**64}, "more than 64 bits"),
        ({"inner": {"count": "x"}}, "inner.count must be a whole number"),
        ({"inner": 3}, "inner must be a mapping of text, count"),
        ({"rates": [float("inf")]}, "rates must be a list .* or None"),
        ({"rate": 1}, "Checked: .*unexpected"),
    ]:
        with pytest.raises(SettingError, match=culprit):
            Checked(**wrong)


class Hostile:
    def __repr__(self):
        raise RuntimeError


def test_describing_a_value_never_fails():
    deep: Any = []
    for _ in range(10**5):
        deep = [deep]
    assert describe("x" * 10**6) == f"'{'x' * 60}'… (1000000 characters)"
    assert describe([Hostile()]) == "list"
    assert describe(Hostile()) == "Hostile"
    assert describe(10**5000) == "int"
    assert describe(deep) == "list"
    assert describe([0] * 10**6) == "a list of 1000000"
    assert len(describe({"a": "b" * 500})) < 100
