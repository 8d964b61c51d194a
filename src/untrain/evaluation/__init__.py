"""Measures: pure functions of outputs, and `evaluate`, which joins them."""
