"""Writes report.html: the results of a run in one self-contained file."""
