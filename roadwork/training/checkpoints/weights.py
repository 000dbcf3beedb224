"""The weights of a checkpoint, put back into a network."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from roadwork.errors import DataError


def load_weights(network: nn.Module, path: Path) -> None:
    """Puts a checkpoint's weights (the averaged ones, where there are any) into the network that it was made of.

    Args:
        network: with its adapter.
        path: of a checkpoint.

    Raises:
        DataError: it is damaged, or of another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        network.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    except (RuntimeError, UnpicklingError, EOFError, KeyError, OSError) as error:
        raise DataError(
            f"{path} does not hold the network that config.yaml describes, or is damaged "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}). Train again."
        ) from error
