"""Checks that a run can be resumed: same configuration, same rows, same number of devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.data.splitting.splits import Splits
from roadwork.runs.run import Run
from roadwork.training.initialization import resolve_start

# Keys that depend on the machine, and paths.
MACHINE_KEYS = (
    "training.accelerator",
    # Their product may not differ; check_resumable compares it, since `auto` does not show it.
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
# Keys that may change at a resume. Most others would be silently ignored, since the checkpoint restores the optimizer
# and its schedule.
_MAY_DIFFER = (
    *("training.epochs", "training.patience", "training.precision", "training.checkpoint_minutes"),
    *MACHINE_KEYS,
)


def check_resumable(folder: Path, cfg: DictConfig, splits: Splits, data_fingerprint: str, *, world_size: int) -> None:
    """Checks a run against the configuration, splits, data and devices it would be resumed with.

    Raises:
        DataError: labels, positions or sequences have changed.
        ConfigError: the number of devices differs, or a key that the checkpoint would override.
        SplitError: the rows of a split differ: the run would train on held-out rows.
    """
    check_same_configuration(folder, cfg)
    n_before = Run(folder).read_manifest().get("processes", 1)
    if n_before != world_size:
        raise ConfigError(
            f"{folder} was trained on {n_before} devices, now there are {world_size}, so steps would have other "
            f"images. Set training.devices and training.num_nodes to {n_before} devices in total, or train without "
            "--resume."
        )
    if Run(folder).read_manifest().get("data_fingerprint") not in (None, data_fingerprint):
        raise DataError(
            f"{folder} was started with other data: rows, labels, positions or sequences have changed since, in the "
            "dataset or in data.label_corrections. Restore them, or train without --resume."
        )
    written = json.loads(Run(folder).splits_file.read_text(encoding="utf-8"))["splits"]
    moved = [name for name, ids in splits.ids.items() if set(written[name]) != set(ids)]
    if moved:
        raise SplitError(
            f"The rows of {', '.join(moved)} differ from those that {folder} was trained with. "
            f"Set data.splits_file={Run(folder).splits_file}, or train without --resume."
        )


def check_same_configuration(folder: Path, cfg: DictConfig) -> None:
    """Checks that the run in `folder` has this configuration, except for the keys that may change.

    Raises:
        ConfigError: a key differs that the checkpoint would override.
    """
    # Composed, so that a run of an older version gets the defaults of newer keys.
    begun = compose_config(Run(folder).read_config())
    cfg = cfg.copy()
    cfg.training.start_from = resolve_start(cfg.training.start_from)
    before, now = (flat_keys(OmegaConf.to_container(each, resolve=True)) for each in (begun, cfg))
    # `evaluation` is read only after training; loggers change nothing.
    keys = [k for k in sorted(before | now) if k not in _MAY_DIFFER and not k.startswith(("evaluation.", "tracking."))]
    differing = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was trained with another configuration: {'; '.join(differing[:5])}. "
            "Restore these, or train without --resume."
        )


def flat_keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat_keys(inner, f"{prefix}{name}.").items()}
