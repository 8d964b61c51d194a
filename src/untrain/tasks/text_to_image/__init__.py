"""Image generation conditioned on text."""
