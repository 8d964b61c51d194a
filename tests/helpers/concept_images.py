"""Watches the images that are made of concepts."""

from typing import Any

import pytest

from untrain.diffusion.images import ImageMaker
from untrain.tasks.text_to_image import concepts


def count_concept_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by how many images each concept is given, call by call."""
    made: list[int] = []

    class Counting(ImageMaker):
        def generate(self, model: Any, labels: Any, *given: Any, **more: Any) -> Any:
            made.append(len(labels))
            return super().generate(model, labels, *given, **more)

    monkeypatch.setattr(concepts, "ImageMaker", Counting)
    return made


def refuse_concept_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on whoever makes or encodes images of concepts fails."""

    def refuse(*given: Any, **more: Any) -> None:
        raise AssertionError("images of concepts were made or encoded")

    monkeypatch.setattr(concepts, "make_images", refuse)
    monkeypatch.setattr(concepts, "encode", refuse)
