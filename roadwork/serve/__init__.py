"""Serves a detector over HTTP: an API for photos, and a web page."""
