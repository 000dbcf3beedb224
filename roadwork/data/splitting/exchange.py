"""Groups change places between splits until rows and labels are shared out as they should be."""

from __future__ import annotations

import itertools

import numpy as np

# Of the rows in all splits; and of a split's rows.
ROW_TOLERANCE, LABEL_TOLERANCE = 0.01, 0.02
# Exchanges end when all is within this part of the tolerances, or when none helps.
_ENOUGH = 0.1
_MAX_EXCHANGES = 400
_MAX_KINDS = 160  # of groups that a split offers in exchange; every pair of two splits' offers is tried
_NOTHING = -1


def exchange_groups(kinds: np.ndarray, counts: np.ndarray, fixed: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(V, K) `counts` after the exchanges that help most, one group for another or for nothing.

    Groups with the same rows of each label are of one kind, so that a million groups are a few thousand kinds.

    Args:
        kinds: (V, 2) rows of label 0 and of label 1 in a group of each kind.
        counts: (V, K) how many groups of each kind each split has.
        fixed: (K, 2) rows of each label that stay where they are.
        shares: (K,) of the rows that each split should have. Every split must have both labels, and keeps both.
    """
    counts = counts.copy()
    held = fixed + counts.T @ kinds
    contents = np.vstack([kinds, [0, 0]])  # the last is that of _NOTHING
    for _ in range(_MAX_EXCHANGES):
        best = _best_exchange(contents, counts, held, shares) if worst_misfit(held, shares) > _ENOUGH else None
        if best is None:
            break
        one, other, given, taken = best
        for kind, source, target in ((given, one, other), (taken, other, one)):
            if kind != _NOTHING:
                counts[kind, source] -= 1
                counts[kind, target] += 1
        held[one] += contents[taken] - contents[given]
        held[other] += contents[given] - contents[taken]
    return counts


def worst_misfit(held: np.ndarray, shares: np.ndarray) -> float:
    """How far the worst split is from its share of rows or of Roadwork, in tolerances; `held` is (K, 2)."""
    rows = held.sum(axis=1)
    off = np.abs(rows / rows.sum() - shares) / ROW_TOLERANCE
    tilt = np.abs(held[:, 1] / rows - held[:, 1].sum() / rows.sum()) / LABEL_TOLERANCE
    return float(max(off.max(), tilt.max()))


def _best_exchange(
    contents: np.ndarray, counts: np.ndarray, held: np.ndarray, shares: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Two splits, and the kinds that the first gives and takes; None where no exchange helps."""
    offers = [_offers(counts[:, split]) for split in range(len(shares))]
    now = _misfit(held, shares, held.sum(axis=0))
    best, most = None, 1e-9  # what rounding can make look like a gain
    for one, other in itertools.combinations(range(len(shares)), 2):
        change = contents[offers[one], None] - contents[None, offers[other]]
        gain = now[one] + now[other] - _misfit(held[one] - change, shares[one], held.sum(axis=0))
        gain -= _misfit(held[other] + change, shares[other], held.sum(axis=0))
        i, j = divmod(int(np.argmax(gain)), len(offers[other]))
        if gain[i, j] > most:
            best, most = (one, other, int(offers[one][i]), int(offers[other][j])), gain[i, j]
    return best


def _offers(counts: np.ndarray) -> np.ndarray:
    """Kinds of which a split has a group, evenly chosen where there are many, and _NOTHING."""
    present = np.flatnonzero(counts)
    if len(present) > _MAX_KINDS:
        present = present[np.linspace(0, len(present) - 1, _MAX_KINDS).astype(int)]
    return np.append(present, _NOTHING)


def _misfit(held: np.ndarray, share: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(...,) what is to be made small, from (..., 2) rows of each label: squared distances in tolerances.

    Rows are weighed by the split's share, so that what cannot be helped is borne in proportion. Infinite where a label
    is missing.
    """
    rows, size = held.sum(axis=-1), total.sum()
    off = (rows - share * size) / (ROW_TOLERANCE * size)
    tilt = (held[..., 1] - total[1] / size * rows) / (LABEL_TOLERANCE * share * size)
    result: np.ndarray = np.where((held > 0).all(axis=-1), off**2 / share + tilt**2, np.inf)
    return result
