"""Data: where it comes from, which part is to be forgotten, and in which batches it is seen."""
