"""How often a run shows its photos again, when some are drawn more than others."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.data.samplers.class_sampler import ClassSampler

# Recipes that train from scratch show each photo about 100 times (ResNet on ImageNet: 90 epochs); above that a photo is
# learned by heart more than it teaches.
MAX_REPEATS = 100


@dataclass(frozen=True)
class Repeats:
    """A run's draws against the rows that they come from.

    Attributes:
        n_rows: rows of the training split, and draws of an epoch.
        effective_rows: Kish's effective sample size of the sampler's weights, (sum w)^2 / sum w^2.
        epochs: of the run.
    """

    n_rows: int
    effective_rows: float
    epochs: int

    @classmethod
    def of(cls, sampler: object, n_rows: int, epochs: int) -> Repeats:
        """Of a sampler of so many rows; one that is not of `roadwork.data.samplers` is held to draw every row alike."""
        return cls(n_rows, sampler.effective_rows if isinstance(sampler, ClassSampler) else float(n_rows), epochs)

    @property
    def per_row(self) -> float:
        """How often each effective row is seen."""
        return self.epochs * self.n_rows / self.effective_rows

    @property
    def are_too_many(self) -> bool:
        return self.per_row > MAX_REPEATS

    @property
    def advice(self) -> str:
        """What to do where they are too many."""
        fitting = max(1, int(MAX_REPEATS * self.effective_rows / self.n_rows))
        return (
            f"set training.epochs to {fitting} or less, even out data.gps_sampling.weight_brackets, or add photos near "
            "the deployment"
        )

    def __str__(self) -> str:
        text = (
            f"{self.epochs} epochs of {self.n_rows:,} draws, whose weights are worth {self.effective_rows:,.0f} rows: "
            f"each of these is seen about {self.per_row:.0f} times"
        )
        return f"{text}, more than {MAX_REPEATS}: {self.advice}." if self.are_too_many else f"{text}."
