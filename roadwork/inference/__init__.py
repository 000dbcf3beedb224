"""From an exported folder to answers: one photo, many, or a web service."""
