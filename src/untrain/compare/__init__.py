"""Comparing methods: every one on the same forget sets, originals and seeds, with the same budget for its settings."""

from untrain.compare.compare import compare_cell, compare_recipe

__all__ = ["compare_cell", "compare_recipe"]
