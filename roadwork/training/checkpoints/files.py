"""The files of a run's checkpoints: written whole or not at all, the newest two kept, and the newest good one found.

`last.ckpt` is the newest, `previous.ckpt` the one before it, `best.ckpt` the best by `val_select`.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from roadwork.errors import DataError, MachineError
from roadwork.runs import atomic_path

logger = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# What a checkpoint takes beside its tensors, and what is left for logs.
_SPARE_BYTES = 16 * 2**20


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary name, syncs and renames it; a new `last.ckpt` leaves the old one beside it."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path.parent, tensor_bytes(checkpoint))
        try:
            with atomic_path(path) as temporary:
                torch.save(checkpoint, temporary)
                if path.name == LAST and path.exists():
                    path.replace(path.with_name(PREVIOUS))
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
            raise MachineError(
                f"{path} could not be written ({_first_line(error)}). What was saved before is as it was: make room, "
                "then go on with --resume."
            ) from error


def check_space(folder: Path, n_bytes: int) -> None:
    """Raises MachineError unless a checkpoint with so many bytes of tensors fits the disk."""
    free = shutil.disk_usage(folder).free
    needed = n_bytes + _SPARE_BYTES
    if free < needed:
        raise MachineError(
            f"A checkpoint takes {needed / 2**20:,.0f} MiB, and {folder} has {free / 2**20:,.0f} MiB left. What was "
            "saved before is as it was: make room, then go on with --resume."
        )


def tensor_bytes(checkpoint: dict[str, Any]) -> int:
    """Bytes of all tensors in a checkpoint."""
    return sum(leaf.nbytes for leaf in tree_leaves(checkpoint) if isinstance(leaf, Tensor))


def find_newest(folder: Path) -> Path:
    """The newest checkpoint of a run that is whole; those that are not are named in a warning.

    What an interrupted write has left is removed.

    Args:
        folder: `checkpoints` of a run.

    Raises:
        DataError: there is none.
    """
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    found = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    for path in found:
        why = why_damaged(path)
        if why is None:
            return path
        logger.warning("%s is damaged (%s) and left out; the one before it is taken, if there is one.", path, why)
    if found:
        raise DataError(
            f"Every checkpoint in {folder} is damaged. Restore one from a backup, or train without --resume."
        )
    raise DataError(f"{folder} has no {LAST}: the run ended before it saved anything. Train without --resume.")


def why_damaged(path: Path) -> str | None:
    """What is wrong with a checkpoint: cut off, or altered since it was written; None where nothing is.

    Its parts carry checksums (CRC-32) that torch writes and does not look at.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            altered = parts.testzip()
        if altered is not None:
            return f"its part {altered} does not have its checksum"
        torch.load(path, map_location="meta", weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, UnpicklingError, ValueError) as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
