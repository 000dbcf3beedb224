"""Whether a run can be continued: the same job on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.data.splitting.splits import Splits
from roadwork.runs.run import Run
from roadwork.training.initialization import name_start

# The machine's part, and where things lie.
MACHINE_KEYS = (
    "training.accelerator",
    # Their product may not differ, which is checked apart: `auto` says nothing of it.
    "training.devices",
    "training.num_nodes",
    "data.root",
    "data.hub.name",
    "data.splits_file",
    "data.cache",
    "data.dataloader.num_workers",
    "data.dataloader.prefetch_factor",
    "data.dataloader.pin_memory",
    "data.dataloader.persistent_workers",
    "data.prepared.use",
    "data.prepared.folder",
    "data.prepared.short_side",
    "model.attention",
    "training.compile",
    "training.channels_last",
    "training.fused_optimizer",
    "training.gradient_checkpointing",
    "output_dir",
)
# What can change between a run and its continuation. Most other keys would be ignored in silence, since the checkpoint
# brings back the optimizer and its schedule.
_MAY_DIFFER = (
    *("training.epochs", "training.patience", "training.precision", "training.checkpoint_minutes"),
    *MACHINE_KEYS,
)


def check_resumable(folder: Path, cfg: DictConfig, splits: Splits, data_fingerprint: str, *, n_processes: int) -> None:
    """Checks the run in `folder` against the configuration, the splits, the data and the devices it would go on with.

    Raises:
        DataError: the run was begun on other labels, positions or sequences.
        ConfigError: a key differs that the checkpoint would overrule, or the number of devices.
        SplitError: the rows of a split are others than the run's: it would train on what it is judged by.
    """
    check_same_configuration(folder, cfg)
    n_before = Run(folder).read_manifest().get("processes", 1)
    if n_before != n_processes:
        raise ConfigError(
            f"{folder} was trained on {n_before} devices, now they are {n_processes}: steps would be of other numbers "
            "of images, and begin at other rows. Set training.devices and training.num_nodes so that there are "
            f"{n_before} in all, or train without --resume."
        )
    if Run(folder).read_manifest().get("data_fingerprint") not in (None, data_fingerprint):
        raise DataError(
            f"{folder} was begun with other data: rows, labels, positions or sequences have changed since, in the "
            "dataset or in data.label_corrections. Restore them, or train without --resume."
        )
    written = json.loads(Run(folder).splits_file.read_text(encoding="utf-8"))["splits"]
    moved = [name for name, ids in splits.ids.items() if set(written[name]) != set(ids)]
    if moved:
        raise SplitError(
            f"The rows of {', '.join(moved)} are not those that {folder} was trained with. "
            f"Set data.splits_file={Run(folder).splits_file}, or train without --resume."
        )


def check_same_configuration(folder: Path, cfg: DictConfig) -> None:
    """Checks that the run in `folder` is of this configuration, but for the keys that may differ.

    Raises:
        ConfigError: a key differs that the checkpoint would overrule.
    """
    # Composed, so that a run of an older version has the defaults of the keys that are new since.
    begun = compose_config(Run(folder).read_config())
    cfg = cfg.copy()
    cfg.training.start_from = name_start(cfg.training.start_from)
    before, now = (flat_keys(OmegaConf.to_container(each, resolve=True)) for each in (begun, cfg))
    # `evaluation` is read after training only; loggers change nothing.
    keys = [k for k in sorted(before | now) if k not in _MAY_DIFFER and not k.startswith(("evaluation.", "tracking."))]
    differing = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was trained with another configuration: {'; '.join(differing[:5])}. "
            "Set these back, or train without --resume."
        )


def flat_keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat_keys(inner, f"{prefix}{name}.").items()}
