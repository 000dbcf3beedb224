"""Evaluates a run: val_test, StreetVision challenge images, ensembles."""
