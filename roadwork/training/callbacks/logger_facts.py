"""What each logger is told of a run: its configuration and origin before training, its result after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from roadwork.runs import read_manifest
from roadwork.training.callbacks.mcc_callback import MCCCallback

BEST_METRIC = "best_val_select_mcc"


class LoggerFacts(Callback):
    """Attaches to each logger what is known before training, and at its end the best MCC on `val_select`.

    Known before are the resolved configuration, the run's folder, the data's fingerprint, the git revision and the
    wiring table. Lightning's loggers do nothing on ranks other than 0.

    Args:
        cfg: composed.
        run_folder: its manifest has the rest.
        mcc_callback: has the result.
    """

    def __init__(self, cfg: DictConfig, run_folder: Path, mcc_callback: MCCCallback) -> None:
        self.cfg = cfg
        self.run_folder = run_folder
        self.mcc_callback = mcc_callback

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        facts = describe_run(self.cfg, self.run_folder)
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({BEST_METRIC: self.mcc_callback.best_mcc}, step=trainer.global_step)


def describe_run(cfg: DictConfig, run_folder: Path) -> dict[str, Any]:
    """The resolved configuration, and what the manifest holds before training: nested dicts of plain values."""
    manifest = read_manifest(run_folder)
    # Names as MLflow allows them, whose rules are the strictest.
    wiring = {
        re.sub(r"[^\w.-]+", "_", row["wire"]).strip("_"): f"{'works' if row['works'] else 'DEAD'}: {row['observed']}"
        for row in manifest.get("wiring", [])
    }
    configuration: Any = _without_empty(OmegaConf.to_container(cfg, resolve=True))
    return {
        **configuration,
        "run_folder": str(run_folder),
        "data_fingerprint": manifest["data_fingerprint"],
        "git_revision": manifest["git_revision"],
        "wiring": wiring,
    }


def _without_empty(value: Any) -> Any:
    """Keys as text, and `{}` as text too: loggers that flatten dicts would lose its key."""
    if isinstance(value, dict):
        return {str(key): _without_empty(inner) for key, inner in value.items()} or "{}"
    return value
