"""Learning curves: error against the number of training photos, and the ceiling that wrong labels set.

The error 1 - MCC follows a + b n^-c in the number n of photos, with an asymptote a >= 0 (Cortes et al., Learning
curves: asymptotic values and rate of convergence, NeurIPS 1993; Viering and Loog, The shape of learning curves, 2021).

Predictions come from a bootstrap with two sources of noise. Held-out groups are drawn with replacement, the same ones
for all sizes. Training noise is Gaussian, its variance proportional to the error and pooled over sizes, since three
seeds alone say little about the noise at one size. If the curve fits worse than this noise explains, the noise is
scaled up to match (Birge, Physical Review 40, 1932).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from roadwork.metrics.classification import mcc
from roadwork.metrics.intervals import Interval, draw_counts, percentile_interval

N_PARAMETERS = 3
_EXPONENTS = np.linspace(0.02, 2.0, 199)


@dataclass(frozen=True)
class Curves:
    """D curves a + b (n / unit)^-c.

    Attributes:
        a: (D,) asymptotes.
        b: (D,) errors above the asymptote at `unit` photos.
        c: (D,) exponents.
        unit: a number of photos.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    unit: float

    def at(self, photos: float | np.ndarray) -> np.ndarray:
        """(D,) or (D, K) errors at a number of photos, or at K numbers."""
        x = np.asarray(photos, dtype=float) / self.unit
        a, b, c = (own[:, None] if x.ndim else own for own in (self.a, self.b, self.c))
        errors: np.ndarray = a + b * x**-c
        return errors

    def photos_for(self, error: float) -> np.ndarray:
        """(D,) numbers of photos at which the error falls to this value; inf if the asymptote is not below it."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            ratio = self.b / np.maximum(error - self.a, 0.0)
            photos: np.ndarray = self.unit * np.where(self.a < error, ratio ** (1 / self.c), np.inf)
        return photos


def fit_curves(photos: np.ndarray, errors: np.ndarray, variances: np.ndarray) -> Curves:
    """Weighted least squares of D curves at once.

    For a given exponent the curve is linear in a and b, so the exponent is searched on a grid. This takes milliseconds
    for thousands of curves, which `scipy.optimize.curve_fit` would fit one by one.

    Args:
        photos: (K,) numbers of photos.
        errors: (D, K) errors at each.
        variances: (K,) of the errors, up to a factor.
    """
    unit, weights = float(photos.max()), 1 / variances / (1 / variances).sum()
    x = (photos / unit) ** -_EXPONENTS[:, None]  # (C, K)
    mean_x, mean_y = x @ weights, (errors @ weights)[:, None]  # (C,), (D, 1)
    mean_xx, mean_xy = x**2 @ weights, (errors * weights) @ x.T  # (C,), (D, C)
    b = (mean_xy - mean_x * mean_y) / (mean_xx - mean_x**2)
    a = mean_y - b * mean_x
    b = np.maximum(np.where(a < 0, mean_xy / mean_xx, b), 0.0)
    a = np.maximum(mean_y - b * mean_x, 0.0)
    a = np.where(b * mean_x > mean_y, 0.0, a)
    loss = a**2 + 2 * a * b * mean_x + b**2 * mean_xx - 2 * (a * mean_y + b * mean_xy)
    best = loss.argmin(axis=1)
    rows = np.arange(len(errors))
    return Curves(a[rows, best], b[rows, best], _EXPONENTS[best], unit)


@dataclass(frozen=True)
class Prediction:
    """A fitted learning curve, and what the bootstrap makes of it.

    Attributes:
        fitted: the curve of the measured errors; D is 1.
        drawn: the curves of the bootstrap.
        noise: (D,) drawn training noise of one more size, the mean over its seeds, divided by the root of the error.
        seeds: number of them.
    """

    fitted: Curves
    drawn: Curves
    noise: np.ndarray
    seeds: int

    def error_at(self, photos: float) -> tuple[float, Interval]:
        """The error of the curve, with its 95 % interval."""
        return float(self.fitted.at(photos)[0]), percentile_interval(self.drawn.at(photos))

    def measured_at(self, photos: float, seeds: int) -> tuple[float, Interval]:
        """The mean error that this many seeds would measure, with its 95 % prediction interval."""
        expected = float(self.fitted.at(photos)[0])
        noise = np.sqrt(expected * self.seeds / seeds) * self.noise
        return expected, percentile_interval(np.maximum(self.drawn.at(photos) + noise, 0.0))

    def photos_for(self, error: float) -> tuple[float, Interval]:
        """The number of photos at which the curve falls to this error, with its 95 % interval; each can be inf."""
        low, high = np.quantile(self.drawn.photos_for(error), [0.025, 0.975], method="inverted_cdf")
        return float(self.fitted.photos_for(error)[0]), (float(low), float(high))


def draw_errors(counts: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """(draws, K, S) errors 1 - MCC on held-out groups that are drawn with replacement.

    Args:
        counts: (G, K, S, 4) tn, fp, fn, tp of each group, size and seed.
        draws: number of bootstrap samples.
        seed: of the draws.
    """
    flat = draw_counts(counts.reshape(len(counts), -1), draws=draws, seed=seed)
    errors: np.ndarray = 1 - mcc(flat.reshape(draws, *counts.shape[1:]))
    return errors


def predict_curve(photos: np.ndarray, errors: np.ndarray, drawn: np.ndarray, *, seed: int, least: float) -> Prediction:
    """Fits the learning curve and draws its uncertainty.

    Args:
        photos: (K,) numbers of training photos, at least 4.
        errors: (K, S) measured errors of at least 2 seeds.
        drawn: (D, K, S) errors on drawn groups, from `draw_errors`.
        seed: of the training noise.
        least: the smallest error that weights count with, such as that of one wrong row.
    """
    n_sizes, n_seeds = errors.shape
    means = errors.mean(axis=1)
    variances = np.maximum(means, least)
    for _ in range(2):  # weights by the curve, since an error that is low by chance would get a high weight
        fitted = fit_curves(photos, means[None], variances)
        variances = np.maximum(fitted.at(photos)[0], least)
    between = (errors.var(axis=1, ddof=1) / variances).mean() / n_seeds
    between_drawn = (drawn.var(axis=2, ddof=1).mean(axis=0) / variances).mean() / n_seeds
    misfit = ((means - fitted.at(photos)[0]) ** 2 / variances).sum() / (n_sizes - N_PARAMETERS)
    # Drawing groups repeats the part of the noise that differs by row and seed, so that part is not added again.
    total = max(between, misfit)
    added = max(total - max(between_drawn - between, 0.0), 0.0)
    freedom = n_sizes * (n_seeds - 1)
    rng = np.random.default_rng(seed)
    student = rng.standard_normal((len(drawn), n_sizes + 1)) * np.sqrt(
        freedom / rng.chisquare(freedom, (len(drawn), 1))
    )
    noisy = drawn.mean(axis=2) + np.sqrt(variances * added) * student[:, :-1]
    return Prediction(fitted, fit_curves(photos, noisy, variances), np.sqrt(total) * student[:, -1], n_seeds)


def label_ceiling(wrong: float, share: float) -> float:
    """The MCC that a perfect detector measures against labels of which a share is wrong; NaN if impossible.

    Wrong labels are random: the same share of both classes, unrelated to what the detector gets wrong. The measured
    MCC of any detector is then its MCC against the true labels times this ceiling.

    Args:
        wrong: share of wrong labels, below 0.5.
        share: share of Roadwork among the labels as they are.
    """
    true_share = (share - wrong) / (1 - 2 * wrong)
    if not 0 < true_share < 1:
        return float("nan")
    return float((1 - 2 * wrong) * np.sqrt(true_share * (1 - true_share) / (share * (1 - share))))


def label_errors_allowed(target: float, share: float) -> float:
    """The share of wrong labels at which the ceiling falls to the target."""
    most = min(share, 1 - share) * (1 - 1e-9)  # the ceiling is about 0 there
    return float(optimize.brentq(lambda wrong: label_ceiling(wrong, share) - max(target, 0.001), 0.0, most))
