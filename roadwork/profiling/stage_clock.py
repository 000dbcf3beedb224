"""Which stage of a training step each moment belongs to, told by the actions that Lightning announces."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from lightning.pytorch.profilers import Profiler
from typing_extensions import override

OTHER = "other"
# In the order of a step: what the stage is called, and what happens in it.
STAGES = {
    "wait": "for the loader's next batch",
    "transfer": "the batch to the device",
    "augment": "augmentation and normalising",
    "forward": "network and loss",
    "backward": "gradients",
    "optimizer": "clipping, step and schedule",
    "callbacks": "EMA, MCC, learning rate",
    OTHER: "Lightning's loop and logging",
}
_FETCH = "train_dataloader_next"
_EPOCH_END = "on_train_epoch_end"
_STAGE_OF_HOOK = {
    _FETCH: "wait",
    "on_before_batch_transfer": "transfer",
    "batch_to_device": "transfer",
    "on_after_batch_transfer": "augment",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "lr_scheduler_step": "optimizer",
}


class StageClock(Profiler):
    """A Lightning profiler that gives each moment of a training step to one stage, so that the stages add up to it.

    An action inside another one takes its time from it: `optimizer_step` calls the forward and the backward pass. An
    action that belongs to no stage counts for the one around it.

    Args:
        synchronise: waits until the device has done what it was given; called wherever a stage ends.
        label: mark the stages in a torch profiler's trace.

    Attributes:
        steps: for each step, the seconds of its stages. It begins when a batch is asked for.
    """

    def __init__(self, synchronise: Callable[[], None], *, label: bool = False) -> None:
        super().__init__()
        self.steps: list[Counter[str]] = []
        self._synchronise = synchronise
        self._current = OTHER
        self._stages_around: list[str] = []
        self._in_step = False
        self._since = 0.0
        self._makes_labels = label
        self._label: torch.profiler.record_function | None = None

    @override
    def start(self, action_name: str) -> None:
        hook = action_name.rpartition(".")[2]
        stage = "callbacks" if action_name.startswith("[Callback]") else _STAGE_OF_HOOK.get(hook, self._current)
        if hook in (_FETCH, _EPOCH_END):
            self._close_stage()
            self._in_step = hook == _FETCH
            if self._in_step:
                self.steps.append(Counter())
        self._stages_around.append(self._current)
        self._enter(stage)

    @override
    def stop(self, action_name: str) -> None:
        self._enter(self._stages_around.pop())

    def _enter(self, stage: str) -> None:
        if stage != self._current:
            self._close_stage()
            self._current = stage
            if self._makes_labels:
                self._mark(stage)

    def _close_stage(self) -> None:
        self._synchronise()
        now = time.perf_counter()
        if self._in_step:
            self.steps[-1][self._current] += now - self._since  # type: ignore[assignment]  # Counter's stubs want integers
        self._since = now

    def _mark(self, stage: str) -> None:
        if self._label is not None:
            self._label.__exit__(None, None, None)
        self._label = torch.profiler.record_function(f"roadwork: {stage}")
        self._label.__enter__()  # type: ignore[no-untyped-call]
