"""Where training starts, if not from the weights that `model` names: from another run's best ones."""

from __future__ import annotations

from torch import nn

from roadwork.settings import Settings


def load_start(network: nn.Module, settings: Settings) -> None:
    """Puts the best weights of the run in `training.start_from`, its adapter merged, into a network in place.

    Raises:
        DataError: there is no such run, or its best checkpoint is damaged.
        ConfigError: its network is another one.
    """
    if settings.training.start_from is None:
        return
    raise NotImplementedError(network)
