"""Runs: a recipe, its folder, and the stages between them."""
