"""Image generation conditioned on a class."""
