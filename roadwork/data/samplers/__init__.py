"""Which training rows are drawn, and how often."""
