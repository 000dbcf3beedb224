"""Figures from a predictions table, never from a model."""
