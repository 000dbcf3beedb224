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

# Space for the other content of a checkpoint, and for logs.
_SPARE_BYTES = 16 * 2**20

# A checkpoint's key for its omitted weights; checkpoints of version 0.1 have the same one.
OMITTED_KEY = "left_out"
_WEIGHTS = ("state_dict", "raw_state_dict")


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary name, syncs and renames it; a new `last.ckpt` keeps the old one beside it."""

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
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
            raise MachineError(
                f"{path} could not be written ({_first_line(error)}). Earlier checkpoints are intact: free some space, "
                "then continue with --resume."
            ) from error


def check_space(folder: Path, n_bytes: int) -> None:
    """Raises MachineError unless a checkpoint with `n_bytes` of tensors fits the disk."""
    free = shutil.disk_usage(folder).free
    needed = n_bytes + _SPARE_BYTES
    if free < needed:
        raise MachineError(
            f"A checkpoint takes {needed / 2**20:,.0f} MiB, and {folder} has {free / 2**20:,.0f} MiB left. Earlier "
            "checkpoints are intact: free some space, then continue with --resume."
        )


def tensor_bytes(checkpoint: dict[str, Any]) -> int:
    """Bytes of all tensors in a checkpoint."""
    return sum(leaf.nbytes for leaf in tree_leaves(checkpoint) if isinstance(leaf, Tensor))


def non_finite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the floating-point tensors with a non-finite value; waits for the device once."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floats:
        return []
    device = next(iter(floats.values())).device
    finite = torch.stack([torch.isfinite(tensor).all().to(device) for tensor in floats.values()])
    return [name for name, is_finite in zip(floats, finite.tolist(), strict=True) if not is_finite]


def find_newest(folder: Path) -> Path:
    """The newest intact checkpoint of a run; damaged ones are skipped with a warning.

    Temporary files of an interrupted write are removed.

    Args:
        folder: a run's `checkpoints`.

    Raises:
        DataError: there is none.
    """
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
    found = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    for path in found:
        why = why_damaged(path)
        if why is None:
            return path
        logger.warning("%s is damaged (%s); trying the checkpoint before it.", path, why)
    if found:
        raise DataError(
            f"Every checkpoint in {folder} is damaged. Restore one from a backup, or train without --resume."
        )
    raise DataError(f"{folder} has no {LAST}: the run ended before it saved anything. Train without --resume.")


def why_damaged(path: Path) -> str | None:
    """Why a checkpoint is truncated or altered, or None if it is intact.

    torch writes a CRC-32 checksum for each part, but does not check it.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            altered = parts.testzip()
        if altered is not None:
            return f"the checksum of {altered} does not match"
        torch.load(path, map_location="meta", weights_only=True)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, UnpicklingError, ValueError) as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class OmittedWeights:
    """Frozen weights that a checkpoint omits.

    Attributes:
        names: of parameters, as the network with its adapter names them.
        sha256: their :func:`fingerprint`.
        n_bytes: their size.
        source: where they come from, for messages.
    """

    names: list[str]
    sha256: str
    n_bytes: int
    source: str

    def matches(self, network: nn.Module) -> bool:
        """Whether the network has exactly these weights."""
        own = dict(network.named_parameters())
        return own.keys() >= set(self.names) and fingerprint({name: own[name] for name in self.names}) == self.sha256


def omit_frozen(checkpoint: dict[str, Any], omitted: OmittedWeights | None) -> None:
    """Removes the omitted weights from a checkpoint that Lightning is about to write, and records them."""
    if omitted is None:
        return
    keys = {f"model.{name}" for name in omitted.names}
    for kind in _WEIGHTS:
        if kind in checkpoint:
            checkpoint[kind] = {key: value for key, value in checkpoint[kind].items() if key not in keys}
    checkpoint[OMITTED_KEY] = asdict(omitted)


def restore_frozen(checkpoint: dict[str, Any], network: nn.Module) -> None:
    """Adds the network's own frozen weights to a checkpoint that omits them, before it is loaded strictly.

    Raises:
        DataError: the network has other frozen weights than the run.
    """
    if OMITTED_KEY not in checkpoint:
        return
    omitted = OmittedWeights(**checkpoint[OMITTED_KEY])
    if not omitted.matches(network):
        raise DataError(
            f"The checkpoint omits {len(omitted.names)} frozen weights, which the run had from {omitted.source}; "
            "the weights there now are missing or have other values. Restore that model, point the key to it, or train "
            "again."
        )
    own = dict(network.named_parameters())
    checkpoint["state_dict"] = checkpoint["state_dict"] | {f"model.{name}": own[name] for name in omitted.names}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, dtypes and bytes, in the order of the names; device and strides do not matter."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a checkpoint's weights (the averaged ones, if any) into a network of the same kind.

    Args:
        network: with its adapter, and with the frozen weights that the checkpoint omits.
        path: of the checkpoint.

    Raises:
        DataError: the checkpoint is damaged, of another network, or the network has other frozen weights.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        restore_frozen(checkpoint, network)
        state = checkpoint["state_dict"]
        network.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (RuntimeError, UnpicklingError, EOFError, KeyError, OSError) as error:
        raise DataError(
            f"{path} does not hold the network that config.yaml describes, or is damaged "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). Train again."
        ) from error
