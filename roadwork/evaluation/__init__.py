"""Evaluates a run: val_test, StreetVision challenge pictures, ensembles."""
