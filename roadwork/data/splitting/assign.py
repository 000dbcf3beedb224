"""Assigns groups to splits so that rows and labels match the ratios."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np

from roadwork.core.errors import SplitError

# Of the rows in all splits; and of a split's rows.
ROW_TOLERANCE, LABEL_TOLERANCE = 0.01, 0.02

# Exchanges end when all is within this part of the tolerances, or when none helps.
_GOOD_ENOUGH = 0.1
_MAX_EXCHANGES = 400
_MAX_KINDS = 160  # of groups that a split offers in exchange; every pair of two splits' offers is tried
_NO_GROUP = -1
UNPINNED = -1

# Few groups may fit in one order of dealing and not in another: the best of so many is taken, or the first that fits.
_FEW_GROUPS, _ATTEMPTS = 2000, 16

# How freely the order of dealing departs from that of size, more so at each attempt. Were it free from the start, train
# would get the larger groups of every size, and val_test be made of hamlets.
_ORDER_SPREAD = 0.25

# Groups alike are dealt by the handful where there are many: a handful is at most one such part of all rows.
_BATCHES = 20_000


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
    contents = np.vstack([kinds, [0, 0]])  # the last is that of _NO_GROUP
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
    """Kinds of which a split has a group, evenly chosen where there are many, and _NO_GROUP."""
    present = np.flatnonzero(counts)
    if len(present) > _MAX_KINDS:
        present = present[np.linspace(0, len(present) - 1, _MAX_KINDS).astype(int)]
    return np.append(present, _NO_GROUP)


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


def assign_groups(
    names: np.ndarray, rows: np.ndarray, positives: np.ndarray, pinned: np.ndarray, ratios: np.ndarray, *, seed: int
) -> np.ndarray:
    """(G,) split of each group, whatever the order of the groups.

    A split that its pinned groups fill to its ratio takes no others but for a label that it lacks; the other splits
    share what is left by their ratios. Groups are dealt from the largest to the smallest, so that every split gets its
    share of each size, and are then exchanged until shares of rows and labels fit. (scikit-learn's StratifiedGroupKFold
    makes folds of one size only, and knows no pins.)

    Args:
        names: (G,) str, different ones.
        rows: (G,) rows of each group, 1 or more.
        positives: (G,) how many of them are Roadwork.
        pinned: (G,) the split it must go to, or UNPINNED.
        ratios: (K,) shares of the rows; a split with 0 takes no free group.
        seed: decides between groups alike, and in which order groups of about one size are dealt.

    Raises:
        SplitError: the groups cannot give both labels to every split with a ratio.
    """
    contents = np.stack([rows - positives, positives], axis=1).astype(np.int64)  # (G, 2) rows of each label
    held = np.zeros((len(ratios), 2), dtype=np.int64)  # (K, 2)
    np.add.at(held, pinned[pinned != UNPINNED], contents[pinned != UNPINNED])
    free = np.flatnonzero(pinned == UNPINNED)
    # Groups with the same rows of each label are of one kind: only their numbers count until the end.
    kinds, kind, available = np.unique(contents[free], axis=0, return_inverse=True, return_counts=True)
    counts = _count_per_split(kinds, available, held, ratios, seed)
    by_kind = free[np.lexsort((_name_hashes(names[free], seed), kind))]
    assigned = pinned.copy()
    assigned[by_kind] = np.repeat(np.tile(np.arange(len(ratios)), len(kinds)), counts.ravel())
    return assigned


def _name_hashes(names: np.ndarray, seed: int) -> np.ndarray:
    """(G,) a random number for each name, in which no other name has a part."""
    salted = (f"{seed}|{name}".encode() for name in names)
    return np.array([int.from_bytes(hashlib.sha256(text).digest()[:8]) for text in salted], dtype=np.uint64)


def _count_per_split(
    kinds: np.ndarray, available: np.ndarray, held: np.ndarray, ratios: np.ndarray, seed: int
) -> np.ndarray:
    """(V, K) how many groups of each kind each split gets."""
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
    """Splits whose pinned rows are fewer than their share of what the open splits have."""
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

    This comes first, since no later step could promise it: an exchange never takes a split's last group of a label.
    """
    sizes = kinds.sum(axis=1)
    has = kinds > 0
    categories = (has[:, 0] & ~has[:, 1], ~has[:, 0] & has[:, 1], has.all(axis=1))  # label 0 alone, 1 alone, both
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
            f"Label 0 is in {zeros + both} of the groups that are free to go anywhere, label 1 in {ones + both} "
            f"({both} of these hold both); each of {int((ratios > 0).sum())} splits needs at least one of each label. "
            "Rows of a group are neighbours, frames of one video, or near-duplicates: add data from other places, "
            "lower data.splitting.buffer_km, or check the labels and pins."
        )
    counts = np.zeros((len(kinds), len(ratios)), dtype=np.int64)
    remaining = [iter(pool) for pool in pools]
    for k, way in zip(in_need, best, strict=True):
        for pool, n in zip(remaining, way, strict=True):
            np.add.at(counts[:, k], list(itertools.islice(pool, n)), 1)
    return counts


def _options_for_missing_labels(has_0: bool, has_1: bool) -> tuple[tuple[int, ...], ...]:
    """Numbers of groups with label 0 alone, label 1 alone, and both, that give a split what it lacks."""
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
    """(V, K) groups of each kind: one after the other goes where it least harms what splits should have at that moment.

    The largest comes first, but one may come before another that is up to 2**spread times as large.
    """
    sizes = kinds.sum(axis=1)
    handful = np.maximum(1, (held.sum() + available @ sizes) // (_BATCHES * sizes))
    full, rest = np.divmod(available, handful)
    kind = np.concatenate([np.repeat(np.arange(len(kinds)), full), np.flatnonzero(rest)])
    number = np.concatenate([np.repeat(handful, full), rest[rest > 0]])
    order = np.argsort(spread * rng.random(len(kind)) - np.log2(sizes[kind]), kind="stable")
    counts = np.zeros((len(kinds), len(shares)), dtype=np.int64)
    rows, positives = held.sum(axis=1).tolist(), held[:, 1].tolist()
    total, total_positives = sum(rows), sum(positives)
    for group, n, (zeros, ones) in zip(kind[order], number[order].tolist(), kinds[kind[order]].tolist(), strict=True):
        size, new = n * (zeros + ones), n * ones
        total, total_positives = total + size, total_positives + new
        positive = total_positives / total
        tilt = new - positive * size
        harm = [
            size * (2 * (rows[k] - share * total) + size) / share
            + tilt * (2 * (positives[k] - positive * rows[k]) + tilt) / (4 * share * share)
            for k, share in enumerate(shares.tolist())
        ]
        k = harm.index(min(harm))
        counts[group, k] += n
        rows[k] += size
        positives[k] += new
    return counts
