"""Captioned images: a folder of images with a table of their captions, as `datasets` reads an image folder."""

from collections.abc import Mapping, Sequence

from untrain.data.sections import Data


def read_attributes(section: Data, captions: Sequence[str], names: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Reads what the table says of every caption: caption → column → value; {} where no column is asked for.

    Raises:
        DataError: if a column is missing, or a caption has two values of one.
    """
    raise NotImplementedError
