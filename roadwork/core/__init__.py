"""Errors, files, devices, progress and random seeds, used by every other package."""
