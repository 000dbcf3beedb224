"""The weights of a checkpoint, put back into a network."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from roadwork.errors import DataError
from roadwork.training.checkpoints.left_out import put_back


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
