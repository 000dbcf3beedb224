"""Maps of training density, splits, deployment and errors, as one self-contained HTML file."""
