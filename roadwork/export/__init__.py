"""Exports of a run: writing, model cards, verification."""
