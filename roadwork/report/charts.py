"""Inline SVG charts, and the curves and bins they draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from sklearn.metrics import precision_recall_curve, roc_curve

from roadwork.metrics.classification import ECE_BINS, equal_mass_bins
from roadwork.metrics.intervals import Interval, error_rate_interval

WIDTH, HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 40
_MAX_POINTS = 300


Range = tuple[float, float]


Point = tuple[float, float]


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About `about` round values from low to high, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs(step - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class Plot:
    """One chart. Later elements are drawn on top of earlier ones.

    Args:
        title: for screen readers, and shown on hover.
        x: lowest and highest value of the x axis.
        y: lowest and highest value of the y axis.
        x_label: label of the x axis.
        y_label: label of the y axis.
        log_y: whether the y axis is logarithmic.
        x_ticks: ticks of the x axis; None takes round values.
    """

    def __init__(
        self,
        title: str,
        *,
        x: Range,
        y: Range,
        x_label: str,
        y_label: str,
        log_y: bool = False,
        x_ticks: Sequence[float] | None = None,
    ) -> None:
        self._title, self._x, self._log_y = title, x, log_y
        self._y = (math.log10(y[0]), math.log10(y[1])) if log_y else y
        self._parts: list[Markup] = []
        self._draw_axes(x_label, y_label, nice_ticks(*x) if x_ticks is None else x_ticks)

    def line(self, points: Sequence[Point], style: str) -> None:
        """Adds a line through points (x, y); `style` is a CSS class."""
        self._add('<path class="line %s" d="%s"/>', style, self._path(points))

    def steps(self, points: Sequence[Point], style: str) -> None:
        """Adds a step line, which moves to the next x first, then to the next y."""
        corners = [(after[0], before[1]) for before, after in itertools.pairwise(points)]
        self.line([point for pair in zip(points, [*corners, points[-1]], strict=True) for point in pair], style)

    def dots(
        self, points: Sequence[Point], style: str, tooltips: Sequence[str] | None = None, radius: float = 3
    ) -> None:
        """Adds dots, each with a tooltip."""
        for (x, y), text in zip(points, tooltips or [""] * len(points), strict=True):
            self._add(
                '<circle class="dot %s" cx="%s" cy="%s" r="%s"><title>%s</title></circle>',
                *(style, self._to_x(x), self._to_y(y), f"{radius:.1f}", text),
            )

    def whisker(self, x: float, low: float, high: float, style: str) -> None:
        """Adds a vertical line from low to high."""
        self._add('<path class="whisker %s" d="%s"/>', style, self._path([(x, low), (x, high)]))

    def vertical_line(self, x: float, text: str, style: str, *, level: int = 0) -> None:
        """Adds a vertical line over the whole height, labelled on line `level` of text from the top."""
        self._add('<path class="mark %s" d="%s"/>', style, self._path([(x, self._low()), (x, self._high())]))
        is_right = x > (self._x[0] + self._x[1]) / 2
        place = float(self._to_x(x)) + (-4 if is_right else 4)
        anchor = "end" if is_right else "start"
        self._add(
            '<text class="%s" x="%s" y="%s" text-anchor="%s">%s</text>',
            *(f"note {style}", f"{place:.1f}", _TOP + 11 + 13 * level, anchor, text),
        )

    def span(self, low: float, high: float, style: str) -> None:
        """Adds a band over the whole height, from x = low to x = high."""
        left, right = float(self._to_x(max(low, self._x[0]))), float(self._to_x(min(high, self._x[1])))
        self._add(
            '<rect class="span %s" x="%s" y="%s" width="%s" height="%s"/>',
            *(style, f"{left:.1f}", _TOP, f"{max(right - left, 1):.1f}", HEIGHT - _TOP - _BOTTOM),
        )

    def svg(self) -> Markup:
        """The chart as SVG."""
        frame = Markup('<svg class="plot" viewBox="0 0 %s %s" role="img"><title>%s</title>%s</svg>')
        return frame % (WIDTH, HEIGHT, self._title, Markup("").join(self._parts))

    def _draw_axes(self, x_label: str, y_label: str, x_ticks: Sequence[float]) -> None:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value in x_ticks:
            place = self._to_x(value)
            self._add('<path class="grid" d="M%s %sV%s"/>', place, _TOP, bottom)
            self._add('<text x="%s" y="%s" text-anchor="middle">%s</text>', place, bottom + 15, f"{value:g}")
        for value in self._y_ticks():
            place = self._to_y(value)
            self._add('<path class="grid" d="M%s %sH%s"/>', _LEFT, place, right)
            at = f"{float(place) + 4:.1f}"
            self._add('<text x="%s" y="%s" text-anchor="end">%s</text>', _LEFT - 5, at, f"{value:.5g}")
        self._add('<path class="axis" d="M%s %sV%sH%s"/>', _LEFT, _TOP, bottom, right)
        middle = (_LEFT + right) / 2, (_TOP + bottom) / 2
        self._add('<text class="label" x="%s" y="%s" text-anchor="middle">%s</text>', middle[0], HEIGHT - 6, x_label)
        self._add(
            '<text class="label" transform="translate(11 %s) rotate(-90)" text-anchor="middle">%s</text>',
            *(middle[1], y_label),
        )

    def _y_ticks(self) -> list[float]:
        if not self._log_y:
            return nice_ticks(*self._y)
        powers = range(math.floor(self._y[0]), math.ceil(self._y[1]) + 1)
        factors = (1, 2, 5) if self._y[1] - self._y[0] < 2 else (1,)
        marks = [factor * 10.0**power for power in powers for factor in factors]
        marks = [mark for mark in marks if self._y[0] - 1e-9 <= math.log10(mark) <= self._y[1] + 1e-9]
        return marks if len(marks) > 1 else nice_ticks(self._low(), self._high())

    def _low(self) -> float:
        return 10 ** self._y[0] if self._log_y else self._y[0]

    def _high(self) -> float:
        return 10 ** self._y[1] if self._log_y else self._y[1]

    def _to_x(self, value: float) -> str:
        share = (value - self._x[0]) / (self._x[1] - self._x[0])
        return f"{_LEFT + share * (WIDTH - _LEFT - _RIGHT):.1f}"

    def _to_y(self, value: float) -> str:
        value = math.log10(value) if self._log_y else value
        share = (value - self._y[0]) / (self._y[1] - self._y[0])
        return f"{HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM):.1f}"

    def _path(self, points: Sequence[Point]) -> str:
        places = dict.fromkeys(f"{self._to_x(x)} {self._to_y(y)}" for x, y in points)  # repeated points only add bytes
        return "M" + "L".join(places) if places else ""

    def _add(self, template: str, *values: object) -> None:
        self._parts.append(Markup(template) % values)  # noqa: S704 -- templates are literals above; % escapes the values


@dataclass(frozen=True)
class RankingCurves:
    """ROC and precision-recall curves.

    Attributes:
        roc: (K, 2) false positive rate and recall, ascending.
        precision_recall: (K, 2) recall and precision, recall ascending; without the point of no predicted Roadwork.
    """

    roc: np.ndarray
    precision_recall: np.ndarray


def ranking_curves(labels: np.ndarray, probabilities: np.ndarray) -> RankingCurves:
    """Both curves at every threshold that changes a decision, thinned to at most 300 points.

    Args:
        labels: (N,) 0 or 1, both present.
        probabilities: (N,) strictly between 0 and 1.
    """
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, probabilities, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    roc = np.stack([false_positive_rate, true_positive_rate], axis=1)
    return RankingCurves(_thin(roc), _thin(np.stack([recall, precision], axis=1)[-2::-1]))


def _thin(points: np.ndarray) -> np.ndarray:
    chosen = np.linspace(0, len(points) - 1, min(_MAX_POINTS, len(points))).round().astype(np.int64)
    thinned: np.ndarray = points[chosen]
    return thinned


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        probability: mean probability of its rows.
        share: share of Roadwork among its rows.
        interval: 95 % interval of the share, over groups.
        n: number of rows.
        groups: number of groups.
    """

    probability: float
    share: float
    interval: Interval
    n: int
    groups: int


def reliability_bins(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, bins: int = ECE_BINS
) -> list[ReliabilityBin]:
    """Bins of equally many rows, ascending by probability; equal probabilities share a bin.

    The interval is `error_rate_interval` with Roadwork rows counted as errors.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork.
        groups: (N,) names or numbers.
        bins: largest number of bins.
    """
    numbers = equal_mass_bins(probabilities, bins)
    found = []
    for number in np.unique(numbers):
        here = numbers == number
        _, codes = np.unique(groups[here], return_inverse=True)
        counts = np.bincount(4 * codes + labels[here], minlength=4 * (codes.max() + 1)).reshape(-1, 4)
        found.append(
            ReliabilityBin(
                probability=float(probabilities[here].mean()),
                share=float(labels[here].mean()),
                interval=error_rate_interval(counts),
                n=int(here.sum()),
                groups=len(counts),
            )
        )
    return found
