"""A dataset of the Hugging Face hub, or in its formats."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HubSettings:
    # Name on the Hugging Face hub, a `save_to_disk` folder, or a folder or glob of parquet files.
    name: str = "natix-network-org/roadwork"
    # The hub dataset's own split to read; ours are made from it.
    split: str = "train"
