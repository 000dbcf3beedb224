"""Whether a run can be continued: the same job on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from roadwork.data.splits import Splits
from roadwork.errors import ConfigError, DataError, SplitError
from roadwork.runs import read_manifest

# The machine's part, and where things lie.
MACHINE_KEYS = (
    "training.accelerator",
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


def check_resumable(folder: Path, cfg: DictConfig, splits: Splits, data_fingerprint: str) -> None:
    """Checks the run in `folder` against the configuration, the splits and the data it would go on with.

    Raises:
        DataError: the run was begun on other labels, positions or sequences.
        ConfigError: a key differs that the checkpoint would overrule.
        SplitError: the rows of a split are others than the run's: it would train on what it is judged by.
    """
    before = flat_keys(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
    now = flat_keys(OmegaConf.to_container(cfg, resolve=True))
    # `evaluation` is read after training only.
    keys = [k for k in sorted(before | now) if k not in _MAY_DIFFER and not k.startswith("evaluation.")]
    differing = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was trained with another configuration: {'; '.join(differing[:5])}. "
            "Set these back, or train without --resume."
        )
    if read_manifest(folder).get("data_fingerprint") not in (None, data_fingerprint):
        raise DataError(
            f"{folder} was begun with other data: rows, labels, positions or sequences have changed since, in the "
            "dataset or in data.label_corrections. Restore them, or train without --resume."
        )
    written = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["splits"]
    moved = [name for name, ids in splits.ids.items() if set(written[name]) != set(ids)]
    if moved:
        raise SplitError(
            f"The rows of {', '.join(moved)} are not those that {folder} was trained with. "
            f"Set data.splits_file={folder / 'splits.json'}, or train without --resume."
        )


def flat_keys(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat_keys(inner, f"{prefix}{name}.").items()}
