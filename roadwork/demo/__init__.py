"""Synthetic street scenes: a demo dataset drawn from a seed."""

from roadwork.demo.generate import DemoSummary, generate_demo_data

__all__ = ["DemoSummary", "generate_demo_data"]
