"""Checkpoints that a crash cannot spoil, and the way back from one."""
