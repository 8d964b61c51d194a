"""The card of an audit by attacks, and the pictures of what came back."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from untrain.audit.attacks_verdict import AttackFound, AttacksFound
from untrain.audit.card import NOTHING
from untrain.audit.finding import CardRow
from untrain.domain import AttackNumber
from untrain.report.audit import AuditPicture, AuditPictures, AuditStrip, Shown
from untrain.runs.names import ORIGINAL, RETRAINED


def attack_rows(found: AttacksFound, original: AttacksFound) -> Iterator[CardRow]:
    """Yields a row for each attack; its target is what it brings into a model that never learned it."""
    for name, each in found.attacks.items():
        low, high = each.ci
        interval = f"{100 * low:.0f} to {100 * high:.0f} %" if each.trials else NOTHING
        yield CardRow(
            each.number.label,
            _said(each),
            interval,
            NOTHING if each.floor is None else _said(each.floor),
            _said(original.attacks[name]),
            each.number.meaning,
        )


def _said(found: AttackFound) -> str:
    if found.share is None:
        return "nothing to attack"
    return f"{100 * found.share:.0f} %, {found.success} of {found.trials}"


def attack_lines(found: AttacksFound) -> Iterator[str]:
    """Yields what stands under the card: the floor, and what every attack could spend."""
    if found.floor.startswith(RETRAINED):
        yield "target: the same attack on the run's retrained model, which never learned it."
    else:
        yield "target: the placebo, the same attack on the original for something that it never learned."
    for each in found.attacks.values():
        spent = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in each.number.budget.items())
        yield f"{each.number.label}: {spent}."


def picture_figures(
    folder: Path, below: str, method: str, floor: str, numbers: Mapping[str, Mapping[str, AttackNumber]]
) -> dict[str, Any]:
    """Returns the figure of what came back: a row for each model, a column for each attack; nothing without pictures.

    Args:
        folder: of the audit.
        below: the pictures' folder in it; a picture is called MODEL-ATTACK.png.
        method: whose card it is.
        floor: the model that never learned it.
        numbers: attack → what it tells.
    """
    roles: dict[str, Shown] = {ORIGINAL: "original", method: "unlearned"}
    roles[floor] = "retrained" if floor.startswith(RETRAINED) else "placebo"
    rows = []
    for model, role in roles.items():
        files = {attack: f"{below}/{model}-{attack}.png" for attack in numbers}
        pictures = [AuditPicture(file, attack) for attack, file in files.items() if (folder / file).exists()]
        rows += [AuditStrip(model, pictures, role)] if pictures else []
    if not rows:
        return {}
    caption = (
        "The first images of every attack's trials, in their order; none was chosen. Images in which the detector sees "
        "what was to be forgotten are blurred where the run's recipe asks for that."
    )
    return {"pictures": AuditPictures("What came back", rows, caption).plain()}
