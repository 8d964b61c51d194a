"""Data: where it comes from, which part is to be forgotten, and in which batches it is seen."""

from untrain.data.sources import SOURCES, Arrays, Images, Source, channel_statistics, check, load
from untrain.data.splits import Split, Subset, check_disjoint, equal_content, make_split

__all__ = [
    "SOURCES",
    "Arrays",
    "Images",
    "Source",
    "Split",
    "Subset",
    "channel_statistics",
    "check",
    "check_disjoint",
    "equal_content",
    "load",
    "make_split",
]
