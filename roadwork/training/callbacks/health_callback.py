"""Numbers that go wrong in a fit: losses and gradients that are not finite, predictions of one class alone."""

from __future__ import annotations

from lightning.pytorch.callbacks import Callback


class HealthCallback(Callback):
    """Leaves out steps whose numbers are not finite, and stops the run where they are too many.

    Args:
        max_skipped: steps left out before the run stops.
    """

    def __init__(self, max_skipped: int) -> None:
        self.max_skipped = max_skipped
        self.n_skipped = 0
