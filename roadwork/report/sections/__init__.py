"""The sections of a report: each has a heading, a template and its values."""
