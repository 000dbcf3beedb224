"""Where a training step's time goes, and what bounds the run."""
