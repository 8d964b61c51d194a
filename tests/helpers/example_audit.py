"""Writes the audit of a run folder, as real ones look, with figures of every kind, for the tests of the report."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from untrain.report.audit import (
    AuditBins,
    AuditCurve,
    AuditGroup,
    AuditHistogram,
    AuditLine,
    AuditPicture,
    AuditPictures,
    AuditRow,
    AuditStrip,
    AuditValues,
)
from untrain.sealed import write_sealed

FACTS = {
    "version": 1, "design": "coins", "run": "/somewhere/else", "seed": 0, "twins": 16, "references": 4,
    "coins_sha256": "80ec54d2ff86d825161108b97ec7a5eb2d2362d800d1d7820f743eef545e9d64",
    "pool": {"size": 1200, "forget": 600, "matched": 600, "hash": "e513263dc0599d07f7b4f7f86e16edba"},
    "base": {"size": 4800}, "train_size": {"run": 6000, "twins": 5400},
}  # fmt: skip
"""What audit.json holds from the first moment on."""
VERDICTS = {
    "sfron": (
        "trace", "still-known",
        "sfron leaves a trace: forgotten samples are still known. Of the advantage that an attacker had before, 28 % "
        "(20 to 37 %) remains.",
    ),
    "finetune": ("passed", None, "No trace was found: an advantage of more than 12 % is excluded at 95 %."),
}  # fmt: skip


def write_example_audit(folder: Path, *, finished: bool = True, **changes: Any) -> dict[str, Any]:
    """Writes audit/audit.json into a run folder, and a picture; returns its content.

    Args:
        folder: of the run.
        finished: whether there are results.
        changes: of its content.
    """
    place = folder / "audit"
    (place / "pictures").mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {**FACTS, "seconds": 812.3}
    if finished:
        Image.new("RGB", (64, 32), (40, 90, 160)).save(place / "pictures/back.png")
        methods = {name: example_method(name) for name in VERDICTS}
        content |= {
            "how": "16 models were trained for this audit, each told to forget what coins gave it.",
            "not_tried": ["attacks on weights that no input reaches"], "notes": ["the models answer at random"],
            "detectable_auc": 0.519, "fingerprint": "769b26f4", "models": {}, "methods": methods,
            "controls": {"original": {"outputs": {"auc": 0.743, "auc_ci": [0.709, 0.776]}}},
        }  # fmt: skip
    content |= changes
    write_sealed(place / "audit.json", content)
    return content


def example_method(name: str) -> dict[str, Any]:
    """What audit.json holds of a method."""
    kind, subkind, sentence = VERDICTS.get(name, VERDICTS["sfron"])
    auc = 0.568 if kind == "trace" else 0.503
    left = (auc - 0.5) / 0.243
    row = {"name": "told apart", "value": f"{auc:.3f}, {100 * left:.0f} % left, p 0.006", "target": "0.500"}
    row |= {"interval": "0.541 to 0.597", "original": "0.743"}
    row |= {"meaning": "Chance that an attack ranks a forgotten sample above a never-seen one."}
    epsilon = {"name": "ε at least", "value": "0.42", "interval": "–", "target": "0", "original": "2.50"}
    return {
        "outputs": {"auc": auc, "auc_ci": [auc - 0.03, auc + 0.03], "left": left, "left_ci": [left - 0.1, left + 0.1]},
        "verdict": {"kind": kind, "subkind": subkind, "sentence": sentence, "remarks": ["The request was not random."]},
        "card": [row, {**epsilon, "meaning": "Any promise of forgetting with a smaller ε is refuted."}],
        "below": ["direction: +0.11 nats; above 0: still known", "16 twins; an AUC of 0.519 would have been found"],
        "figures": {key: figure.plain() for key, figure in example_figures(name, auc).items()},
    }  # fmt: skip


def example_figures(name: str, auc: float) -> dict[str, Any]:
    """A figure of each kind."""
    rng = np.random.default_rng(0)
    fpr = np.geomspace(0.5, 100, 20)
    lines = []
    for label, role, power in (("original", "original", 0.5), (name, "unlearned", 0.8), ("retrained", "retrained", 1)):
        tpr = 100 * (fpr / 100) ** power
        lines.append(AuditLine(label, fpr.tolist(), tpr.tolist(), (0.8 * tpr).tolist(), (1.2 * tpr).tolist(), role))
    edges = np.linspace(-4, 4, 31)
    bells = [np.exp(-((edges[:-1] - at) ** 2) / 2) for at in (0.4, 0.0)]
    groups = dict(zip(("forgotten", "never seen"), (bell.tolist() for bell in bells)))
    values = [
        AuditGroup(role, rng.normal(at, 0.02, 16).tolist(), (at - 0.03, at + 0.03))
        for role, at in (("original", 0.743), ("unlearned", auc), ("retrained", 0.5))
    ]
    return {
        "roc": AuditCurve("ROC of the attack", lines, "accused [%]", "found [%]", "xy", True, "How to read it."),
        "scores": AuditHistogram("Scores", [AuditBins(name, edges.tolist(), groups)], "score", "Outlines."),
        "attacks": AuditValues("AUC by attack", [AuditRow("told apart", values, target=0.5, p=0.006)], "Points."),
        "back": AuditPictures(
            "What came back", [AuditStrip("inversion", [AuditPicture("pictures/back.png", "seed 0")])]
        ),
    }


def add_audits(content: dict[str, Any]) -> dict[str, Any]:
    """Adds what audits found to the content of comparison.json."""
    for name, one in content["forget_sets"].items():
        verdicts = {}
        for method, model in one["models"].items():
            if model["role"] in ("method", "original"):
                found = example_method(method)["outputs"] if model["role"] == "method" else None
                auc, left = (0.743, 1.0) if found is None else (found["auc"], found["left"])
                for key, value in (("audit_auc", auc), ("audit_left", 100 * left)):
                    ends = [value - 0.05 * abs(value), value + 0.05 * abs(value)]
                    model["measures"][key] = {"values": [value], "n": 1, "mean": value, "ci95": ends, "few": False}
            if model["role"] == "method":
                kind, subkind, sentence = VERDICTS.get(method, VERDICTS["sfron"])
                verdicts[method] = {"kind": kind, "subkind": subkind, "sentence": sentence.replace("sfron", method)}
        one["audit"] = {"folder": f"cells/{name}/seed-0/audit", "seed": 0, "twins": 16, "verdicts": verdicts}
    return content
