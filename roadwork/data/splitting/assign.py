"""Assigns groups to splits so that rows and labels match the ratios."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np

from roadwork.core.errors import SplitError

# Allowed deviation of a split's share of all rows, and of the share of Roadwork among its own rows.
ROW_TOLERANCE, LABEL_TOLERANCE = 0.01, 0.02

# Exchanges stop when every deviation is below this share of its tolerance, or when no exchange helps.
_GOOD_ENOUGH = 0.1
_MAX_EXCHANGES = 400
_MAX_KINDS = 160  # kinds that a split offers; all pairs of two splits' offers are tried
_NO_GROUP = -1
UNPINNED = -1

# With few groups the result depends on the order of assignment: several orders are tried, up to the first that fits.
_FEW_GROUPS, _ATTEMPTS = 2000, 16

# Randomness of the order of assignment in powers of two of the group size; it grows with each attempt. A fully random
# order would give train the large groups and val_test only small ones.
_ORDER_SPREAD = 0.25

# Many groups of one kind are assigned in batches, each with at most 1/20,000 of all rows.
_BATCHES = 20_000


def exchange_groups(kinds: np.ndarray, counts: np.ndarray, fixed: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(V, K) `counts` after greedy local search: swap two groups, or move one, while the fit improves.

    Groups with equal row counts for each label are one kind, so a million groups are a few thousand kinds.

    Args:
        kinds: (V, 2) rows of label 0 and label 1 in a group of each kind.
        counts: (V, K) groups of each kind in each split.
        fixed: (K, 2) rows of each label that cannot move.
        shares: (K,) target share of the rows for each split. Every split must have both labels, and keeps both.
    """
    counts = counts.copy()
    held = fixed + counts.T @ kinds
    contents = np.vstack([kinds, [0, 0]])  # the last row belongs to _NO_GROUP
    for _ in range(_MAX_EXCHANGES):
        best = _best_exchange(contents, counts, held, shares) if worst_misfit(held, shares) > _GOOD_ENOUGH else None
        if best is None:
            break
        one, other, given, taken = best
        for kind, source, target in ((given, one, other), (taken, other, one)):
            if kind != _NO_GROUP:
                counts[kind, source] -= 1
                counts[kind, target] += 1
        held[one] += contents[taken] - contents[given]
        held[other] += contents[given] - contents[taken]
    return counts


def worst_misfit(held: np.ndarray, shares: np.ndarray) -> float:
    """Largest deviation of any split from its target rows or label share, in tolerances; `held` is (K, 2)."""
    rows = held.sum(axis=1)
    row_error = np.abs(rows / rows.sum() - shares) / ROW_TOLERANCE
    label_error = np.abs(held[:, 1] / rows - held[:, 1].sum() / rows.sum()) / LABEL_TOLERANCE
    return float(max(row_error.max(), label_error.max()))


def _best_exchange(
    contents: np.ndarray, counts: np.ndarray, held: np.ndarray, shares: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Two splits, and the kinds that the first gives and takes; None if no exchange helps."""
    offers = [_offers(counts[:, split]) for split in range(len(shares))]
    now = _misfit(held, shares, held.sum(axis=0))
    best, most = None, 1e-9  # smaller gains may be rounding errors
    for one, other in itertools.combinations(range(len(shares)), 2):
        change = contents[offers[one], None] - contents[None, offers[other]]
        gain = now[one] + now[other] - _misfit(held[one] - change, shares[one], held.sum(axis=0))
        gain -= _misfit(held[other] + change, shares[other], held.sum(axis=0))
        i, j = divmod(int(np.argmax(gain)), len(offers[other]))
        if gain[i, j] > most:
            best, most = (one, other, int(offers[one][i]), int(offers[other][j])), gain[i, j]
    return best


def _offers(counts: np.ndarray) -> np.ndarray:
    """Kinds present in a split, evenly subsampled if there are many, and _NO_GROUP."""
    present = np.flatnonzero(counts)
    if len(present) > _MAX_KINDS:
        present = present[np.linspace(0, len(present) - 1, _MAX_KINDS).astype(int)]
    return np.append(present, _NO_GROUP)


def _misfit(held: np.ndarray, share: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(...,) the loss of splits with (..., 2) rows of each label: squared deviations in tolerances.

    Row deviations are divided by the split's share, so that unavoidable ones are spread in proportion to the split
    sizes. Infinite where a label is missing.
    """
    rows, size = held.sum(axis=-1), total.sum()
    row_error = (rows - share * size) / (ROW_TOLERANCE * size)
    label_error = (held[..., 1] - total[1] / size * rows) / (LABEL_TOLERANCE * share * size)
    result: np.ndarray = np.where((held > 0).all(axis=-1), row_error**2 / share + label_error**2, np.inf)
    return result


def assign_groups(
    names: np.ndarray, rows: np.ndarray, positives: np.ndarray, pinned: np.ndarray, ratios: np.ndarray, *, seed: int
) -> np.ndarray:
    """(G,) index of the split for each group; independent of the order of the groups.

    A split that its pinned groups already fill takes no others, except for a label that it lacks. The other splits
    share the rest by their ratios. Groups are assigned from the largest to the smallest, so that every split gets its
    share of each size. Exchanges then bring the shares of rows and labels within their tolerances. scikit-learn's
    StratifiedGroupKFold supports neither unequal folds nor pins.

    Args:
        names: (G,) str, unique.
        rows: (G,) rows of each group, 1 or more.
        positives: (G,) rows with label Roadwork.
        pinned: (G,) the required split, or UNPINNED.
        ratios: (K,) shares of the rows; a split with 0 takes no unpinned group.
        seed: breaks ties between equal groups, and shuffles groups of similar size.

    Raises:
        SplitError: the groups cannot give both labels to every split with a ratio above 0.
    """
    contents = np.stack([rows - positives, positives], axis=1).astype(np.int64)  # (G, 2) rows of each label
    held = np.zeros((len(ratios), 2), dtype=np.int64)  # (K, 2)
    np.add.at(held, pinned[pinned != UNPINNED], contents[pinned != UNPINNED])
    free = np.flatnonzero(pinned == UNPINNED)
    # Groups with equal rows of each label are interchangeable: only their counts matter until the end.
    kinds, kind, available = np.unique(contents[free], axis=0, return_inverse=True, return_counts=True)
    counts = _count_per_split(kinds, available, held, ratios, seed)
    by_kind = free[np.lexsort((_name_hashes(names[free], seed), kind))]
    assigned = pinned.copy()
    assigned[by_kind] = np.repeat(np.tile(np.arange(len(ratios)), len(kinds)), counts.ravel())
    return assigned


def _name_hashes(names: np.ndarray, seed: int) -> np.ndarray:
    """(G,) a pseudo-random number for each name, independent of the other names."""
    salted = (f"{seed}|{name}".encode() for name in names)
    return np.array([int.from_bytes(hashlib.sha256(text).digest()[:8]) for text in salted], dtype=np.uint64)


def _count_per_split(
    kinds: np.ndarray, available: np.ndarray, held: np.ndarray, ratios: np.ndarray, seed: int
) -> np.ndarray:
    """(V, K) groups of each kind in each split."""
    unfilled = _unfilled_splits(held.sum(axis=1), int((available @ kinds).sum()), ratios)
    shares = ratios[unfilled] / ratios[unfilled].sum()
    counts = _assign_missing_labels(kinds, available, held, ratios)
    left = available - counts.sum(axis=1)
    start = held[unfilled] + counts[:, unfilled].T @ kinds
    best, least = counts[:, unfilled], np.inf
    for attempt in range(_ATTEMPTS if available.sum() <= _FEW_GROUPS else 1):
        rng, spread = np.random.default_rng([seed, attempt]), _ORDER_SPREAD * (1 + attempt)
        dealt = counts[:, unfilled] + _assign_by_size(kinds, left, start, shares, rng=rng, spread=spread)
        exchanged = exchange_groups(kinds, dealt, held[unfilled], shares)
        misfit = worst_misfit(held[unfilled] + exchanged.T @ kinds, shares)
        if misfit < least:
            best, least = exchanged, misfit
        if least <= 1:
            break
    counts[:, unfilled] = best
    return counts


def _unfilled_splits(pinned: np.ndarray, free: int, ratios: np.ndarray) -> np.ndarray:
    """Splits whose pinned rows are below their target; they share the unpinned rows."""
    unfilled = np.flatnonzero(ratios > 0)
    while True:
        wanted = ratios[unfilled] / ratios[unfilled].sum() * (pinned[unfilled].sum() + free)
        below = pinned[unfilled] < wanted
        if below.all() or not below.any():
            return unfilled
        unfilled = unfilled[below]


def _assign_missing_labels(
    kinds: np.ndarray, available: np.ndarray, held: np.ndarray, ratios: np.ndarray
) -> np.ndarray:
    """(V, K) the smallest groups that give each split the labels it lacks.

    This runs first because no later step guarantees it. An exchange never removes a split's last group of a label.
    """
    sizes = kinds.sum(axis=1)
    has = kinds > 0
    categories = (has[:, 0] & ~has[:, 1], ~has[:, 0] & has[:, 1], has.all(axis=1))  # only label 0, only label 1, both
    by_size = np.argsort(sizes, kind="stable")
    pools = [np.repeat(by_size, np.where(category, available, 0)[by_size])[: len(ratios)] for category in categories]
    in_need = [int(k) for k in np.argsort(ratios, kind="stable") if ratios[k] > 0 and (held[k] == 0).any()]
    options = [_options_for_missing_labels(bool(held[k, 0]), bool(held[k, 1])) for k in in_need]
    costs = [np.concatenate([[0], np.cumsum(sizes[pool])]) for pool in pools]
    best, least = None, np.inf
    for choice in itertools.product(*options):
        used = np.array(choice, dtype=int).reshape(-1, 3).sum(axis=0)
        if all(n <= len(pool) for n, pool in zip(used, pools, strict=True)):
            cost = sum(int(cost[n]) for n, cost in zip(used, costs, strict=True))
            best, least = (choice, cost) if cost < least else (best, least)
    if best is None:
        zeros, ones, both = (int(available[category].sum()) for category in categories)
        raise SplitError(
            f"Too few groups for both labels in every split: label 0 in {zeros + both} unpinned groups, label 1 in "
            f"{ones + both} ({both} hold both labels), for {int((ratios > 0).sum())} splits. Rows of a group are "
            "close together, frames of one video, or near-duplicates. Add data from other places, "
            "lower data.splitting.buffer_km, or check the labels and pins."
        )
    counts = np.zeros((len(kinds), len(ratios)), dtype=np.int64)
    remaining = [iter(pool) for pool in pools]
    for k, way in zip(in_need, best, strict=True):
        for pool, n in zip(remaining, way, strict=True):
            np.add.at(counts[:, k], list(itertools.islice(pool, n)), 1)
    return counts


def _options_for_missing_labels(has_0: bool, has_1: bool) -> tuple[tuple[int, ...], ...]:
    """The ways to supply a split's missing labels: how many groups with only label 0, only label 1, and both."""
    return (int(not has_0), int(not has_1), 0), (0, 0, 1)


def _assign_by_size(
    kinds: np.ndarray,
    available: np.ndarray,
    held: np.ndarray,
    shares: np.ndarray,
    *,
    rng: np.random.Generator,
    spread: float,
) -> np.ndarray:
    """(V, K) groups of each kind, assigned greedily: each goes where it adds least to the deviation so far.

    Larger groups go first; a group may precede one that is up to 2**spread times as large.
    """
    sizes = kinds.sum(axis=1)
    batch = np.maximum(1, (held.sum() + available @ sizes) // (_BATCHES * sizes))
    full, rest = np.divmod(available, batch)
    kind = np.concatenate([np.repeat(np.arange(len(kinds)), full), np.flatnonzero(rest)])
    number = np.concatenate([np.repeat(batch, full), rest[rest > 0]])
    order = np.argsort(spread * rng.random(len(kind)) - np.log2(sizes[kind]), kind="stable")
    counts = np.zeros((len(kinds), len(shares)), dtype=np.int64)
    rows, positives = held.sum(axis=1).tolist(), held[:, 1].tolist()
    total, total_positives = sum(rows), sum(positives)
    for group, n, (zeros, ones) in zip(kind[order], number[order].tolist(), kinds[kind[order]].tolist(), strict=True):
        size, new = n * (zeros + ones), n * ones
        total, total_positives = total + size, total_positives + new
        positive = total_positives / total
        label_error = new - positive * size
        cost = [
            size * (2 * (rows[k] - share * total) + size) / share
            + label_error * (2 * (positives[k] - positive * rows[k]) + label_error) / (4 * share * share)
            for k, share in enumerate(shares.tolist())
        ]
        k = cost.index(min(cost))
        counts[group, k] += n
        rows[k] += size
        positives[k] += new
    return counts
