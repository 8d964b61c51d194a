"""Classes of saved generators: how many, what they are called, and data under their numbers."""

from collections.abc import Sequence

from untrain.data.classes import match_classes
from untrain.data.source import Source
from untrain.diffusion.folders import local_folder
from untrain.diffusion.pipelines import labels_of
from untrain.errors import ModelError
from untrain.models.pretrained import read_object


def class_names(origin: str, source: Source) -> tuple[str, ...] | None:
    """What a saved model's classes are called, by number; None where it does not tell and all are in the source.

    Where it names none, and the source's classes are called by some of its numbers, these are the names.
    """
    found, rows = labels_of(origin), class_rows(origin)
    if found is not None or rows is None or len(source.classes) >= rows - 1:
        return found
    if all(name.isdecimal() and int(name) < rows - 1 for name in source.classes):
        return tuple(str(number) for number in range(rows - 1))
    return None


def class_rows(origin: str) -> int | None:
    """Rows of a saved model's embedding of classes, "no class" included, as its configuration tells; None: it does not.

    Raises:
        ModelError: if the model is conditioned on no class.
    """
    folder = local_folder(origin)
    path = next((p for inner in ("", "transformer", "unet") if (p := folder / inner / "config.json").is_file()), None)
    config = {} if path is None else read_object(path)
    if config.get("_class_name") == "UNet2DModel":
        rows = config.get("num_class_embeds")
        if rows is None:
            raise ModelError(
                f"{path} is of a model without classes (num_class_embeds is null), and what it should forget is a "
                "class. Give a class-conditional model."
            )
        return int(rows)
    classes = config.get("num_embeds_ada_norm")  # of a DiT
    return None if classes is None else int(classes) + 1


def renumber(source: Source, names: Sequence[str] | None) -> Source:
    """A source whose classes have the numbers that a model gives to them.

    Args:
        source: its classes are named as the model's, or by the model's numbers ("207").
        names: of the model's classes; each may list synonyms with commas between. None: unknown, so the source's own
            numbers hold.

    Raises:
        UnknownName: if the model has no such class.
    """
    if names is None or list(source.classes) == list(names):
        return source
    return match_classes(source.classes, names, remedy=_REMEDY).renumber(source)


_REMEDY = "Name the data's classes as the model's, or by the model's numbers."
