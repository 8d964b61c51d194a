"""Measures: pure functions of outputs."""
