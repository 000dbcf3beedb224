"""Metrics from labels and probabilities, with intervals; no model is needed."""
