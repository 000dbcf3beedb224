"""The rows of the wiring table on datasets that are mixed in: the share asked, and the share drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from roadwork.data.extra import SOURCE
from roadwork.data.samplers.brackets import parse_brackets
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.preflight.observations import Observations, WireRow

CHANCE = 5.0  # standard deviations that independent draws may lie off
_ROUNDING = 1e-6  # of a draw


def extra_rows(seen: Observations) -> Iterator[WireRow]:
    """Of each dataset of `data.extra`: its part of the next epoch's draws, against what the configuration asks for.

    What is asked is worked out from the settings and the rows' distances, not from the sampler's own weights.
    """
    extras = seen.datamodule.settings.data.extra
    if not extras:
        return
    dataset, slices = seen.datamodule.datasets["train"], seen.datamodule.table.slices
    names = slices[SOURCE].to_numpy(dtype=object)
    of_row = names[dataset.rows]
    n_draws = len(seen.next_epoch)
    drawn_names = of_row[seen.next_epoch]
    shown = names[torch.cat(seen.probe.train.rows).numpy()]
    asked = _asked_shares(seen, of_row)
    sampling = seen.datamodule.settings.data.gps_sampling
    for extra in extras:
        name, share = extra.dataset_name, asked[extra.dataset_name]
        n_drawn = int((drawn_names == name).sum())
        allowed = 1 + _ROUNDING
        if sampling.draw == "iid":
            allowed += CHANCE * np.sqrt(n_draws * share * (1 - share))
        yield WireRow(
            f"extra data ({name})",
            f"share asked {share:.1%}, share drawn {n_drawn / max(1, n_draws):.1%} "
            f"({n_drawn:,} of {n_draws:,} draws of the next epoch); it has {int((of_row == name).sum()):,} of "
            f"{len(dataset):,} training rows, and {int((shown == name).sum())} of the {len(shown)} images shown",
            abs(n_drawn - share * n_draws) <= allowed,
            "train_dataloader must give its sampler the mixture of find_mixture, and the sampler draw by it",
        )


def _asked_shares(seen: Observations, of_row: np.ndarray) -> dict[str, float]:
    """Share of the draws that each dataset of `data.extra` should have."""
    data, sampler = seen.datamodule.settings.data, seen.datamodule.train_sampler
    weights = np.ones(len(of_row))
    if isinstance(sampler, GPSWeightedSampler):
        brackets = parse_brackets(data.gps_sampling.weight_brackets)
        by_distance = np.append(brackets.weights, data.gps_sampling.missing_weight)
        weights = by_distance[brackets.index_of(sampler.distances_km)]
    shares = {extra.dataset_name: extra.share for extra in data.extra if extra.share is not None}
    factors = {extra.dataset_name: extra.weight for extra in data.extra}
    totals = {name: factors.get(name, 1.0) * float(weights[of_row == name].sum()) for name in set(of_row) - set(shares)}
    left = (1 - sum(shares.values())) / sum(totals.values())
    return {name: shares.get(name, left * totals.get(name, 0.0)) for name in factors}
