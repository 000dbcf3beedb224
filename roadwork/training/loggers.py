"""Builds the experiment loggers (TensorBoard, wandb, MLflow, Comet, CSV), and gives them a run's metadata."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from roadwork.core.errors import ConfigError, MissingExtraError
from roadwork.runs.run import Run
from roadwork.settings import Settings, TrackingSettings
from roadwork.training.callbacks.mcc_callback import MCCCallback

BEST_METRIC = "best_val_select_mcc"


class RunMetadataCallback(Callback):
    """Logs a run's metadata before training, and its best MCC on `val_select` at the end.

    The metadata are the resolved configuration, the run's folder, the data's fingerprint, the git revision and the
    wiring table. Lightning's loggers do nothing on ranks other than 0.

    Args:
        cfg: the composed configuration.
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
    """A run's metadata from configuration and manifest, as nested dicts of plain values."""
    manifest = Run(run_folder).read_manifest()
    # Names that MLflow allows; its rules are the strictest.
    wiring = {
        re.sub(r"[^\w.-]+", "_", row["wire"]).strip("_"): f"{'works' if row['works'] else 'failed'}: {row['observed']}"
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
    """Keys as text, and `{}` as text too, since loggers that flatten dicts would lose its key."""
    if isinstance(value, dict):
        return {str(key): _without_empty(inner) for key, inner in value.items()} or "{}"
    return value


@dataclass(frozen=True)
class _LoggerKind:
    """A Lightning logger.

    Attributes:
        build: its class.
        package: to install with pip; empty if none is needed.
        module: of that package.
        passes_on_to: the module's function that gets the arguments which the class does not name; empty if none.
    """

    build: Callable[..., Logger]
    package: str = ""
    module: str = ""
    passes_on_to: str = ""


LOGGERS = {
    "wandb": _LoggerKind(WandbLogger, "wandb", "wandb", "init"),
    "mlflow": _LoggerKind(MLFlowLogger, "mlflow", "mlflow"),
    "comet": _LoggerKind(CometLogger, "comet-ml", "comet_ml", "ExperimentConfig"),
    "csv": _LoggerKind(CSVLogger),
}


def check_loggers(tracking: TrackingSettings) -> None:
    """Checks the names, packages and arguments of `tracking.loggers`, without starting a logger.

    Raises:
        ConfigError: a logger or one of its arguments is unknown.
        MissingExtraError: a logger's package is not installed.
    """
    for name, arguments in tracking.loggers.items():
        kind = LOGGERS.get(name)
        if kind is None:
            raise ConfigError(
                f"tracking.loggers names {name!r}; allowed: {', '.join(LOGGERS)}.{_nearest(name, LOGGERS)} "
                "TensorBoard and metrics.jsonl are always written."
            )
        if not isinstance(arguments, dict | None):
            raise ConfigError(
                f"tracking.loggers.{name} is {arguments!r}; it must be the arguments of Lightning's "
                f"{kind.build.__name__} by name, or {{}}."
            )
        if kind.module and find_spec(kind.module) is None:
            raise MissingExtraError(
                f"tracking.loggers names {name}, whose package is not installed. Install it: pip install {kind.package}"
            )
        known = _arguments_of(kind)
        unknown = [argument for argument in arguments or {} if argument not in known]
        if unknown:
            raise ConfigError(
                f"tracking.loggers.{name}.{unknown[0]} is not an argument of Lightning's {kind.build.__name__}."
                f"{_nearest(unknown[0], known)} It takes {', '.join(known)}."
            )


def build_loggers(settings: Settings, run_folder: Path) -> list[Logger]:
    """TensorBoard in the run's folder, then one logger for each name in `tracking.loggers`.

    Each is named after the experiment and the run, unless its arguments set a name.

    Raises:
        ConfigError: see :func:`check_loggers`.
        MissingExtraError: see :func:`check_loggers`.
    """
    check_loggers(settings.tracking)
    loggers: list[Logger] = [
        TensorBoardLogger(run_folder, name="", version="tensorboard", default_hp_metric=False),
    ]
    run_name = re.sub(r"[^\w.-]+", "-", f"{settings.experiment}-{run_folder.name}")
    defaults: dict[str, dict[str, Any]] = {
        "wandb": {
            "save_dir": run_folder,
            "name": run_name,
            "id": run_name,
        },  # a resumed run continues under its id
        "mlflow": {"experiment_name": settings.experiment, "run_name": run_name},
        "comet": {"name": run_name},
        "csv": {"save_dir": run_folder, "name": "", "version": "csv"},
    }
    for name, arguments in settings.tracking.loggers.items():
        loggers.append(LOGGERS[name].build(**(defaults[name] | (arguments or {}))))
    return loggers


def _arguments_of(kind: _LoggerKind) -> list[str]:
    """The names of all arguments that a configuration can give."""
    names = _named(kind.build)
    if kind.passes_on_to:
        names += _named(getattr(import_module(kind.module), kind.passes_on_to))
    return sorted(set(names))


def _named(function: Callable[..., Any]) -> list[str]:
    """The names of a function's arguments, without objects and secrets, which no configuration holds."""
    parameters = inspect.signature(function).parameters.values()
    by_name = [p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}]
    return [name for name in by_name if name not in {"self", "experiment", "api_key"}]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
