"""A loader of batches that goes on in the middle of an epoch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import lightning as L
from torch.utils.data import DataLoader


def ignore_interrupts(worker: int) -> None:
    """For a worker process: Ctrl-C reaches all processes of a terminal, and what becomes of it the main one decides."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A ``DataLoader`` whose passes begin with the first batch that its trainer has not completed in the epoch.

    That is the first of all, unless the trainer was restarted from a checkpoint inside an epoch. A position of its own
    would be no guide, as it runs ahead of the training by what it prefetches. The sampler needs ``start_at``.

    Each batch says where it stands: `epoch`, and `position`, the number of this rank's rows before it in the epoch; and
    `is_repeat` where its rows are another rank's.

    Attributes:
        trainer: whose training loader this is; without one each pass begins at the beginning.
        is_repeat: whether its rows are another rank's, and must not count twice.
    """

    trainer: L.Trainer | None = None
    is_repeat = False

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # torch names its own iterator's class
        # Lightning asks for the iterator before it has restored its counts and the epoch, and worker processes draw
        # at once. A generator waits until the first batch is asked for.
        n_completed = self._completed_batches()
        if n_completed:
            self.sampler.start_at(n_completed * self.batch_size)  # type: ignore[attr-defined, operator]
        epoch = getattr(self.sampler, "epoch", 0)
        repeat = {"is_repeat": True} if self.is_repeat else {}
        for number, batch in enumerate(super().__iter__(), n_completed):
            yield batch | repeat | {"epoch": epoch, "position": number * self.batch_size}  # type: ignore[operator]

    def _completed_batches(self) -> int:
        trainer = self.trainer
        if trainer is None or not trainer.training or trainer.train_dataloader is not self:
            return 0
        return trainer.fit_loop.epoch_loop.batch_progress.current.completed

    def state_dict(self) -> dict[str, Any]:
        """Nothing; that there is one tells Lightning that this loader can be resumed inside an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is to be restored: the trainer knows the position."""
