"""Synthetic street scenes: a dataset to try everything on, drawn from a seed."""

from roadwork.demo.generate import DemoSummary, generate_demo_data

__all__ = ["DemoSummary", "generate_demo_data"]
