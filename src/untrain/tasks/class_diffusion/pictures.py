"""Pictures of what attacks brought back of forgotten classes: the first images of the first model of each kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from untrain.diffusion.images import grid, png
from untrain.domain import Told
from untrain.io import write_bytes
from untrain.report.audit import AuditPicture, AuditPictures, AuditStrip, Shown
from untrain.tasks.class_diffusion.audit import INVERSION, PLAIN, RELEARNING

PICTURES = "pictures"
"""The folder of an audit that holds them."""
_TITLES = {
    PLAIN: "Drawn as the models are",
    INVERSION: "Drawn by a learned vector",
    RELEARNING: "Drawn after relearning",
}
_CAPTION = (
    "What was drawn for each forgotten class by the first original, the first unlearned and the first retrained model, "
    "of the same noise: none was chosen. What the retrained model draws, the attack taught it."
)


def draw_attacks(
    folder: Path, name: str, original: Sequence[Told], unlearned: Sequence[Told], retrained: Sequence[Told]
) -> dict[str, Any]:
    """Writes a grid of each attack for each kind of model: a row for each class; returns the report's figures.

    Args:
        folder: of the audit.
        name: of the method.
        original: what originals told, and so for unlearned and retrained models.
    """
    kinds: dict[Shown, Told] = {"original": original[0], "unlearned": unlearned[0], "retrained": retrained[0]}
    found = {}
    for attack, title in _TITLES.items():
        if all(attack in told.signals for told in kinds.values()):
            rows = [
                _strip(folder, attack, name if role == "unlearned" else role, role, told)
                for role, told in kinds.items()
            ]
            found[f"drawn-{attack}"] = AuditPictures(title, rows, _CAPTION).plain()
    return found


def _strip(folder: Path, attack: str, model: str, role: Shown, told: Told) -> AuditStrip:
    path = Path(PICTURES) / f"{attack}-{model}.png"
    write_bytes(folder / path, png(grid(torch.from_numpy(told.signals[attack]))))
    return AuditStrip(model, [AuditPicture(path.as_posix())], role)
