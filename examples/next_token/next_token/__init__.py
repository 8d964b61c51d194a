"""Language models that forget facts: a task of its own for `untrain`."""
