"""Draws nested training sets of growing size, and plans and trains their fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from omegaconf import DictConfig

from roadwork.config import compose_config, to_settings
from roadwork.core.errors import ConfigError, SplitError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.splitting.splits import Splits
from roadwork.experiments.ablation_fit import check_builds, run_fit
from roadwork.experiments.plan import SIZE, Overrides, Plan, begin_plan, check_one_device, count_epoch_steps, run_fits
from roadwork.settings.sampling import SELECTION_SPLIT, TRAIN_SPLIT

HELD_OUT_FOLD = 0


@dataclass(frozen=True)
class SizeDesign:
    """Which fits a size experiment has.

    Attributes:
        sizes: number of training set sizes; the largest is all training rows of the fold.
        ratio: of each size to the next smaller one.
        seeds: seeds 0 to seeds - 1, each with draws of its own.
        folds: of the grouped cross-validation; the first one is held out.
        min_steps: fewest optimizer steps of a fit, reached by more epochs; None: as many as the largest size makes.
    """

    sizes: int
    ratio: float
    seeds: int
    folds: int
    min_steps: int | None = None


def draw_groups(labels: np.ndarray, groups: np.ndarray, n_rows: int, seed: int) -> np.ndarray:
    """(N,) bool, about this many rows in whole groups, with both labels.

    Draws of one seed are nested: a smaller one is part of each larger one. Groups with mostly Roadwork and groups with
    mostly None are mixed evenly, so that each draw has about the share of Roadwork of all rows.

    Args:
        labels: (N,) 0 or 1.
        groups: (N,) group of each row.
        n_rows: rows to draw; the number of whole groups that comes nearest is drawn.
        seed: of the order of the groups.

    Raises:
        SplitError: the rows have one label only.
    """
    _, codes = np.unique(groups, return_inverse=True)
    rows = np.bincount(codes)
    roadwork = np.bincount(codes, labels)
    places = np.empty(len(rows))
    rng = np.random.default_rng(seed)
    for kind in (False, True):
        own = rng.permutation(np.flatnonzero((roadwork > rows / 2) == kind))
        places[own] = (np.cumsum(rows[own]) - rows[own] / 2) / max(rows[own].sum(), 1)
    order = np.argsort(places, kind="stable")
    totals = np.cumsum(rows[order])
    has_both = (np.cumsum(roadwork[order]) > 0) & (np.cumsum((rows - roadwork)[order]) > 0)
    if not has_both.any():
        raise SplitError("The training rows have one label only, so no size can be drawn. Add data of the other label.")
    last = max(int(np.abs(totals - n_rows).argmin()), int(has_both.argmax()))
    return np.isin(codes, order[: last + 1])


def plan_sizes(cfg: DictConfig, design: SizeDesign, resume: str | None = None) -> Plan:
    """Divides the data into folds, draws the training sets and plans a fit for each size and seed; trains nothing.

    The rows that select a checkpoint are drawn in the same proportion, so that validation takes the same share of
    the time at each size. The experiment selects nothing by them.

    Args:
        cfg: the configuration that all fits share.
        design: which fits there are.
        resume: the folder of a size experiment to continue, or `latest`; its finished fits are kept.

    Raises:
        RoadworkError: the data are too few or cannot be divided, or the folder holds another experiment.
    """
    settings = to_settings(compose_config(cfg))
    check_one_device(settings)
    options = {name: getattr(design, name) for name in ("sizes", "ratio", "seeds", "folds", "min_steps")}
    plan = begin_plan(cfg, SIZE, options, resume)
    if plan.dataset.table.is_train_only.any():
        raise ConfigError(
            f"data.extra adds {int(plan.dataset.table.is_train_only.sum()):,} training rows to each size, so the curve "
            "would not show the effect of the number of photos. Set data.extra=[]."
        )
    whole = plan.splits[HELD_OUT_FOLD]
    total = len(whole.ids[TRAIN_SPLIT])
    min_steps = design.min_steps or settings.training.epochs * count_epoch_steps(whole, settings)
    targets = [round(total / design.ratio**power) for power in reversed(range(design.sizes))]
    for seed in range(design.seeds):
        draws = [_draw_splits(plan, whole, target / total, seed) for target in targets]
        sizes = [len(draw.ids[TRAIN_SPLIT]) for draw in draws]
        if len(set(sizes)) < len(sizes):
            raise SplitError(
                f"{total:,} training rows in whole groups cannot be divided into {design.sizes} different sizes: seed "
                f"{seed} would draw {', '.join(map(str, sizes))} rows. Use fewer --sizes or a larger --ratio."
            )
        for target, draw in zip(targets, draws, strict=True):
            overrides: Overrides = {
                "training.seed": seed,
                "data.gps_sampling.random_seed": seed,
                "training.patience": 0,
                "training.epochs": max(
                    settings.training.epochs, math.ceil(min_steps / count_epoch_steps(draw, settings))
                ),
            }
            plan.add_fit(HELD_OUT_FOLD, f"{target}_photos", seed, overrides, draw)
    return plan


def _draw_splits(plan: Plan, whole: Splits, share: float, seed: int) -> Splits:
    """The splits with a share of the rows for training and selection; the other rows are set aside."""
    table, groups = plan.dataset.table, plan.dataset.groups.names
    ids, left = dict(whole.ids), []
    for name in (TRAIN_SPLIT, SELECTION_SPLIT):
        rows = np.flatnonzero(np.isin(table.ids, whole.ids[name]))
        rows = rows[np.argsort(table.ids[rows])]
        drawn = draw_groups(table.labels[rows], groups[rows], round(share * len(rows)), seed)
        ids[name] = table.ids[rows[drawn]].tolist()
        left += table.ids[rows[~drawn]].tolist()
    return replace(whole, ids=ids, set_aside=[*whole.set_aside, *left])


def run_sizes(plan: Plan, show: Callable[[str], object]) -> None:
    """Trains the unfinished fits, and stores the last weights' predictions of the held-out fold.

    Args:
        plan: of the size experiment.
        show: receives each line.

    Raises:
        RoadworkError: the network cannot be built.
    """
    if plan.unfinished:
        check_builds(plan.unfinished[0])
    run_fits(plan, lambda fit, _: run_fit(fit, NATIXDataModule(fit.cfg)), show)
