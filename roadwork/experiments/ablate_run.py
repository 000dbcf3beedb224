"""Trains what an ablation has not finished, one fit after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from roadwork.data.datamodule import NATIXDataModule
from roadwork.errors import WiringError
from roadwork.evaluation.metrics import count_confusion, mcc
from roadwork.experiments.ablate_fit import check_builds, run_fit
from roadwork.experiments.ablate_plan import Ablation
from roadwork.preflight.dry_run import prepare_trainer, run_dry


def run_fits(ablation: Ablation, say: Callable[[str], object]) -> None:
    """Trains the unfinished fits; an arm's wires are proven before the first of its own.

    Args:
        ablation: its finished fits are kept.
        say: is given a line for each step, with the time left.

    Raises:
        RoadworkError: an arm cannot be built, or one of its wires is dead.
    """
    waiting, n_fits = ablation.unfinished, len(ablation.fits)
    if len(waiting) < n_fits:
        say(f"{n_fits - len(waiting)} of {n_fits} fits are finished already; they are kept.")
    first_of_arm = {fit.arm: fit for fit in reversed(waiting)}
    for fit in first_of_arm.values():
        check_builds(fit)
    taken: list[tuple[str, float]] = []
    for done, fit in enumerate(waiting):
        began = time.monotonic()
        datamodule = NATIXDataModule(fit.cfg)
        if fit is first_of_arm[fit.arm]:
            _prove_wires(datamodule, fit.arm)
        frame = run_fit(fit, datamodule)
        taken.append((fit.arm, time.monotonic() - began))
        value = float(mcc(count_confusion(frame["label"].to_numpy(), frame["probability"].to_numpy())))
        seconds_left = estimate_left(taken, [left.arm for left in waiting[done + 1 :]])
        if done == 0 and len(waiting) > 1:
            say(f"{len(waiting)} fits, {show_minutes(taken[0][1] + seconds_left)} by the first.")
        say(
            f"{n_fits - len(waiting) + done + 1} of {n_fits}: {fit.arm}, seed {fit.seed} on fold {fit.fold + 1}: MCC "
            f"{value:.3f} on {len(frame):,} held-out rows; {show_minutes(seconds_left)} left."
        )


def estimate_left(taken: Sequence[tuple[str, float]], arms_left: Sequence[str]) -> float:
    """Seconds that fits of these arms will take: each arm's own mean so far, the mean of all where it has none.

    Args:
        taken: arm and seconds of each finished fit, at least one.
        arms_left: of the fits to come.
    """
    by_arm: dict[str, list[float]] = {}
    for arm, seconds in taken:
        by_arm.setdefault(arm, []).append(seconds)
    overall = float(np.mean([seconds for _, seconds in taken]))
    return float(sum(np.mean(by_arm.get(arm, [overall])) for arm in arms_left))


def show_minutes(seconds: float) -> str:
    """`about 25 min`, below two minutes in seconds."""
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"


def _prove_wires(datamodule: NATIXDataModule, arm: str) -> None:
    dead = [row for row in run_dry(datamodule, prepare_trainer(datamodule)) if not row.works]
    if dead:
        raise WiringError(
            f"The arm {arm} has dead wires, so it would not be what its name says: "
            + "; ".join(f"{row.wire} ({row.observed}): {row.fix}" for row in dead)
        )
