"""Frozen weights that checkpoints leave out: noted when one is written, and put back when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from roadwork.errors import DataError

# In a checkpoint.
KEY = "left_out"
_WEIGHTS = ("state_dict", "raw_state_dict")


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
