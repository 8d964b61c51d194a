"""Tasks: kinds of models, one folder each. They are found by the entry point group `untrain.tasks`, see `registry`."""

from untrain.callable_package import make_callable
from untrain.registry import tasks as tasks

make_callable(__name__)
