"""The rows of the wiring table on a frozen backbone, and on its features that are computed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from roadwork.data.dataset import ImageStore
from roadwork.data.feature_datamodule import FeatureDataset
from roadwork.data.features import choose_device, compute_features
from roadwork.models.head import find_head, in_evaluation_mode
from roadwork.preflight.observations import Observations, WireRow
from roadwork.training.frozen import why_no_features

COMPARED = 8
FEATURE_TOLERANCE = 1e-4
# Batches of another size can take other kernels, which round more coarsely than a CPU's (TF32).
DEVICE_TOLERANCE = 1e-2


def frozen_rows(seen: Observations) -> Iterator[WireRow]:
    """Whether the head alone moved, and whether it is given the same by the features as by the images."""
    if not seen.trainer.settings.training.freeze_backbone:
        return
    yield _frozen_backbone_row(seen)
    if why_no_features(seen.probe.model, seen.datamodule) is None:
        yield _frozen_features_row(seen)


def _frozen_backbone_row(seen: Observations) -> WireRow:
    probe, head = seen.probe, f"{find_head(seen.probe.model)}."
    first = probe.weights_after_step[0]
    later = (*probe.weights_after_step[1:], probe.weights_in_validation, probe.weights_after_validation)
    moved = {name for name, value in first.items() if any(not torch.equal(value, weights[name]) for weights in later)}
    in_head = {name for name in first if name.startswith(head)}
    drifted = sorted(moved - in_head)
    return WireRow(
        "frozen backbone",
        f"{len(drifted)} of {len(first) - len(in_head)} weights and buffers of the backbone moved"
        + (f", first {drifted[0]}" if drifted else "")
        + f"; of the head {len(moved & in_head)} of {len(in_head)}",
        not drifted and in_head <= moved,
        "the backbone must need no gradient and stay in evaluation mode while training; the head must be trained",
    )


def _frozen_features_row(seen: Observations) -> WireRow:
    """On a few rows that trained; their features take the way of all, through the cache and the data set."""
    module, datamodule, settings = seen.trainer.module, seen.datamodule, seen.datamodule.settings
    rows = np.unique(torch.cat(seen.probe.train.rows).numpy())[:COMPARED]
    network = cast("PreTrainedModel", seen.probe.model)
    features = compute_features(network, settings, datamodule.ledger, datamodule.source, rows)
    dataset = FeatureDataset(datamodule.datasets["train"], features)
    batch = dataset.__getitems__(range(len(dataset)))
    photos = ImageStore(datamodule.source, settings.data.img_size)
    images = torch.stack([cast("Tensor", photos.get(row)) for row in batch["index"].tolist()]).float().div_(255)
    home, device = module.device, choose_device(settings.training.accelerator)
    module.to(device)
    with torch.no_grad(), in_evaluation_mode(module):
        through_features = module.logits_of({"features": batch["features"].to(device)})
        through_images = module(datamodule.normalise(images.to(device)))
        difference = float((through_features - through_images).abs().max())
    module.to(home)
    right = int((batch["label"].numpy() == datamodule.table.labels[batch["index"].numpy()]).sum())
    return WireRow(
        "frozen features",
        f"on {len(dataset)} of {len(rows)} rows that trained, logits through the kept features differ from those "
        f"through the images by at most {difference:.0e}; {right} of {len(rows)} labels are those of the table",
        difference < (FEATURE_TOLERANCE if device.type == "cpu" else DEVICE_TOLERANCE)
        and len(dataset) == right == len(rows),
        "compute_features must read, normalise and run images as validation does; a network whose logits are more "
        "than its head's cannot be trained so",
    )
