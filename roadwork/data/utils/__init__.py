"""Positions: reading them from text, columns and EXIF, and distances between them."""
