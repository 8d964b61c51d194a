"""Comparing methods: every one on the same forget sets, originals and seeds, with the same budget for its settings."""

from untrain.compare.compare import compare_recipe, perform_cell

__all__ = ["compare_recipe", "perform_cell"]
