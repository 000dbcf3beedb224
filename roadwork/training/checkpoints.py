"""Checkpoint files: atomic writes, rotation, damage checks, and omitted frozen weights.

`last.ckpt` is the newest, `previous.ckpt` the one before it, `best.ckpt` the best by `val_select`.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from roadwork.core.errors import DataError, MachineError
from roadwork.core.files import atomic_path
from roadwork.runs.run import LAST, PREVIOUS

logger = logging.getLogger(__name__)


# What a checkpoint takes beside its tensors, and what is left for logs.
_SPARE_BYTES = 16 * 2**20

# In a checkpoint.
KEY = "left_out"
_WEIGHTS = ("state_dict", "raw_state_dict")


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


@dataclass(frozen=True)
class LeftOut:
    """What a checkpoint does not hold.

    Attributes:
        names: of parameters, as the network with its adapter names them.
        sha256: of their names, shapes, dtypes and bytes (:func:`fingerprint`).
        n_bytes: how many they take.
        source: where they are to be had, for people.
    """

    names: list[str]
    sha256: str
    n_bytes: int
    source: str


def leave_out(checkpoint: dict[str, Any], left_out: LeftOut | None) -> None:
    """Takes the weights out of a checkpoint that Lightning is about to write, and notes which."""
    if left_out is None:
        return
    keys = {f"model.{name}" for name in left_out.names}
    for kind in _WEIGHTS:
        if kind in checkpoint:
            checkpoint[kind] = {key: value for key, value in checkpoint[kind].items() if key not in keys}
    checkpoint[KEY] = asdict(left_out)


def put_back(checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Fills the gaps of a checkpoint that was read, with the network's own weights; strict loading then follows.

    Raises:
        DataError: these are not the weights that were left out.
    """
    if KEY not in checkpoint:
        return
    left_out, own = LeftOut(**checkpoint[KEY]), dict(network.named_parameters())
    missing = [name for name in left_out.names if name not in own]
    if missing or fingerprint({name: own[name] for name in left_out.names}) != left_out.sha256:
        raise DataError(
            f"The checkpoint leaves out {len(left_out.names)} frozen weights, which {left_out.source} had when the run "
            "was trained; "
            + (f"the network has no {missing[0]}. " if missing else "what is there now has other values. ")
            + "Put the same model back there (or set the key to where it is now), or train again."
        )
    checkpoint["state_dict"] = checkpoint["state_dict"] | {f"model.{name}": own[name] for name in left_out.names}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, dtypes and bytes in the order of the names, on whatever device and in any strides."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(network: nn.Module, path: Path) -> None:
    """Puts a checkpoint's weights (the averaged ones, where there are any) into the network that it was made of.

    Args:
        network: with its adapter, and with the frozen weights that the checkpoint leaves out.
        path: of a checkpoint.

    Raises:
        DataError: it is damaged, or of another network, or its frozen weights are not the network's.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        put_back(checkpoint, network)
        state = checkpoint["state_dict"]
        network.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (RuntimeError, UnpicklingError, EOFError, KeyError, OSError) as error:
        raise DataError(
            f"{path} does not hold the network that config.yaml describes, or is damaged "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). Train again."
        ) from error
