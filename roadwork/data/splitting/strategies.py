"""The strategies of splitting: which split, if any, each row goes to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from roadwork.data.groups import Groups
from roadwork.data.splitting.assign import FREE, assign_groups
from roadwork.data.splitting.held_out import rows_after, rows_in_regions
from roadwork.data.splitting.pins import pins_of_groups, read_pins
from roadwork.data.table import SampleTable
from roadwork.errors import SplitError
from roadwork.settings import SPLIT_NAMES, SplittingSettings

logger = logging.getLogger(__name__)

SET_ASIDE = -1
VAL_TEST = SPLIT_NAMES.index("val_test")


@dataclass(frozen=True)
class _World:
    """What every strategy works on; `ratios` are in the order of SPLIT_NAMES, `pins` an index of it or FREE."""

    table: SampleTable
    groups: Groups
    ratios: np.ndarray
    pins: np.ndarray
    seed: int

    def share_out(self, names: np.ndarray, usable: np.ndarray, ratios: np.ndarray) -> np.ndarray:
        """(N,) split of each usable row, whole groups of these (N,) names together; SET_ASIDE for the others."""
        codes = np.full(len(self.table), FREE)
        codes[usable], unique = pd.factorize(names[usable])
        rows = np.bincount(codes[usable], minlength=len(unique))
        positives = np.bincount(codes[usable], weights=self.table.labels[usable], minlength=len(unique))
        pinned = pins_of_groups(self.table, unique, codes, self.pins)
        assigned = assign_groups(unique, rows, positives, pinned, ratios, seed=self.seed)
        return np.where(usable, assigned[codes], SET_ASIDE)


def assign_rows(
    table: SampleTable, groups: Groups, ratios: Mapping[str, float], splitting: SplittingSettings
) -> np.ndarray:
    """(N,) index of each row's split in SPLIT_NAMES, or SET_ASIDE, by `splitting.strategy`.

    A pinned row takes its whole group with it. Where pins and a held-out region or date contradict each other, that is
    an error. Rows that `groups` sets aside stay so even if pinned, which is said.

    Raises:
        ConfigError: a setting names a column, region or time that the data lacks.
        SplitError: the data cannot be split as asked.
    """
    shares = np.array([ratios[name] for name in SPLIT_NAMES])
    world = _World(table, groups, shares, read_pins(table, splitting), splitting.seed)
    if splitting.strategy == "random":
        # For comparison with what others do: they know no groups, so rows that groups set aside stay in.
        return world.share_out(table.ids, ~np.isin(table.ids, list(table.dropped_ids)), shares)
    lost = int((groups.set_aside & (world.pins != FREE)).sum())
    if lost:
        logger.warning("%s pinned rows are set aside: they lie within the buffer of another part of their group.", lost)
    if splitting.strategy == "region_holdout":
        where = f"in the regions {', '.join(splitting.regions)}"
        return _hold_out(world, rows_in_regions(table, splitting), where, "Name other data.splitting.regions.")
    if splitting.strategy == "temporal":
        after, span = rows_after(table, splitting)
        remedy = f"{span}; choose another data.splitting.after."
        return _hold_out(world, after, f"taken at or after {splitting.after}", remedy)
    return world.share_out(groups.names, ~groups.set_aside, shares)


def _hold_out(world: _World, held: np.ndarray, where: str, remedy: str) -> np.ndarray:
    """val_test is what is held out, and no more; the other splits share the groups that have no row in it.

    Args:
        world: the data.
        held: (N,) bool.
        where: says what rows are held out, for messages.
        remedy: what to do where too few rows are held out, or too many.
    """
    table, usable = world.table, ~world.groups.set_aside
    test = held & usable
    touched = usable & pd.Series(world.groups.names).isin(world.groups.names[test]).to_numpy()
    rest = usable & ~touched
    _check_held_out(table, test, rest, where, remedy)
    _check_pins(world, test, touched, where)
    if (touched & ~test).any():
        logger.warning(
            "%s rows are set aside: they are not %s, but share a group with rows that are.",
            f"{int((touched & ~test).sum()):,}",
            where,
        )
    split = world.share_out(
        world.groups.names, rest, np.where(np.arange(len(SPLIT_NAMES)) == VAL_TEST, 0, world.ratios)
    )
    split[test] = VAL_TEST
    return split


def _check_held_out(table: SampleTable, test: np.ndarray, rest: np.ndarray, where: str, remedy: str) -> None:
    counts = np.bincount(table.labels[test], minlength=2)
    if not counts.all():
        raise SplitError(
            f"val_test would be the rows {where} that are not set aside: {counts[0]:,} of label 0 and {counts[1]:,} of "
            f"label 1. It needs both. {remedy}"
        )
    if not rest.any():
        raise SplitError(f"Nothing is left for train: every row is {where}, or in a group with such a row. {remedy}")


def _check_pins(world: _World, test: np.ndarray, touched: np.ndarray, where: str) -> None:
    """A pin may not send a held-out row, or one of its group, elsewhere, nor any other row to val_test."""
    pins, usable = world.pins, ~world.groups.set_aside
    away = touched & (pins != FREE) & ~(test & (pins == VAL_TEST))
    into = usable & ~touched & (pins == VAL_TEST)
    wrong = np.flatnonzero(away | into)
    if len(wrong):
        row = wrong[np.argmin(world.table.ids[wrong])]
        is_part = "is" if test[row] else "is not" if pins[row] == VAL_TEST else "shares a group with rows"
        raise SplitError(
            f"{len(wrong)} pinned rows contradict the strategy, first {world.table.ids[row]}: it is pinned to "
            f"{SPLIT_NAMES[pins[row]]}, but {is_part} {where}; exactly these are val_test. "
            "Unpin such rows in data.splitting.pin_column or pin_values, or hold other rows out."
        )
