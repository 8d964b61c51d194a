"""Tasks: kinds of models, one folder each. They are found by the entry point group `untrain.tasks`, see `registry`."""
