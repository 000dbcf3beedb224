"""The linear probe before fine-tuning (LP-FT: Kumar et al. 2022, arXiv:2202.10054)."""

from __future__ import annotations

from torch import nn

from roadwork.data.datamodule import NATIXDataModule


def probe_head(network: nn.Module, datamodule: NATIXDataModule) -> None:
    """Trains the head alone for `training.probe_epochs`, on frozen features, in place; then all that was, is trainable.

    Args:
        network: with its adapter, which stays as it is.
        datamodule: set up for a fit.
    """
    if datamodule.settings.training.probe_epochs == 0:
        return
    raise NotImplementedError(network)
