"""Makes splits from groups and verifies splits."""
