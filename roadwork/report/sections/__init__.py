"""The parts of a report, each a heading, a template and what the template shows."""
