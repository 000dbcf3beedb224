"""Several runs as one detector: their logits averaged."""
