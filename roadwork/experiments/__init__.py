"""Experiments on a dataset: cross-validation, the label audit, and what GPS weighting does."""
