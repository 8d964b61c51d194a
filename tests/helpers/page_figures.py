"""Figures of pages, which most tests leave blank: to lay them out takes longer than the rest of a short run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from untrain.report import drawing


@contextmanager
def figures_by(draw: Callable[[Any], bytes]) -> Iterator[None]:
    """Inside the block, figures of pages are what a function makes of a drawing: `blank`, or matplotlib's SVG."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "print_svg", draw)
        yield


def blank(_: Any) -> bytes:
    """An SVG without lines."""
    return b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 648 200"/>'


drawn = drawing.print_svg
"""As users have them; of this module's first import, before anything is replaced."""
