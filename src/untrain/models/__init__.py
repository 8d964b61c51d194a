"""Models: classifiers by name, their checkpoints, and the subject that methods change."""
