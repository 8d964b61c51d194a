"""Labels as a classifier needs them, class numbers [B]; and what to make of others."""

from torch import Tensor

from untrain.errors import DataError
from untrain.types import Batch

OWN_TASK = "a task of its own, which the page “Adding a task” of the documentation shows"
"""Where losses other than cross-entropy on one label a sample belong."""


def class_numbers(batch: Batch, num_classes: int | None) -> Tensor:
    """Returns the labels of a batch, int64 [B].

    Args:
        batch: has "label", and may have "index".
        num_classes: outputs of the model; None: not known yet.

    Raises:
        DataError: if they are no class numbers, with what to do; if one lies outside the outputs, named by its index.
    """
    labels = batch["label"]
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"labels must be class numbers, whole numbers [B], not {labels.dtype} {list(labels.shape)}. "
            f"{_remedy(labels)}"
        )
    bad = labels < 0
    if num_classes is not None:
        bad = bad | (labels >= num_classes)
    if bool(bad.any()):
        at = int(bad.nonzero()[0, 0])
        where = f" (first: index {int(batch['index'][at])})" if "index" in batch else ""
        raise DataError(f"label {int(labels[at])}{where} lies outside {_outside(int(labels[at]), num_classes)}")
    return labels.long()


def _remedy(labels: Tensor) -> str:
    """What to do with labels that are no class numbers, by their shape and values."""
    if labels.ndim == 0 or labels.ndim > 2:
        return f"A label for each pixel or place needs {OWN_TASK}."
    whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    if labels.ndim == 1 or labels.shape[1] == 1:
        convert = "label.long()" if labels.ndim == 1 else "label.squeeze(1).long()"
        if whole:
            return f"If these are class numbers, give {convert}; amounts need {OWN_TASK} (Regression)."
        return f"Amounts need {OWN_TASK} (Regression)."
    if whole and bool(((labels == 0) | (labels == 1)).all()):
        return f"If one class of each is 1, give label.argmax(1); several at once need {OWN_TASK} (MultiLabel)."
    return f"Shares of classes become numbers by label.argmax(1); other amounts need {OWN_TASK} (Regression)."


def _outside(label: int, num_classes: int | None) -> str:
    """What a label lies outside of, and what to do."""
    known = "class numbers, which begin with 0" if num_classes is None else f"the model's outputs: it has {num_classes}"
    numbered = "" if num_classes is None else f", numbered 0 to {num_classes - 1}"
    if num_classes == 1:
        return f"{known}. One output for yes and no needs {OWN_TASK} (MultiLabel)."
    if label < 0 or label == 255:
        return f"{known}{numbered}. If it stands for samples without a label, leave them out."
    return f"{known}{numbered}. Correct the labels or the model's last layer."
