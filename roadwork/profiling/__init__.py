"""Profiles training steps and finds the bottleneck."""
