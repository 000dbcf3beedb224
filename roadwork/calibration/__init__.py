"""From the logits that `evaluate` wrote to probabilities and decisions that can be relied on."""
