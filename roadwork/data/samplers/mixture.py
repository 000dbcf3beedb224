"""How often training draws from each of several datasets."""

from dataclasses import dataclass

import numpy as np

from roadwork.errors import DataError


@dataclass(frozen=True)
class Mixture:
    """N rows of D datasets, the main one first.

    Attributes:
        names: (D,) of the datasets.
        index: (N,) int64, which dataset each row is of.
        shares: (D,) share of all draws, or None where a dataset's rows are drawn by their weights; they sum to below 1.
        weights: (D,) factor of its rows' weights; 1 where there is a share.
    """

    names: tuple[str, ...]
    index: np.ndarray
    shares: tuple[float | None, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def factors(self, totals: np.ndarray) -> np.ndarray:
        """(D,) by which the weights of each dataset's rows are multiplied, so that the shares come out.

        Weights inside a dataset keep their ratios, and so do those of the datasets without a share.

        Args:
            totals: (D,) sum of the weights of each dataset's rows.

        Raises:
            DataError: a share of nothing is asked for.
        """
        factors = np.array(self.weights, dtype=np.float64)
        is_shared = np.array([share is not None for share in self.shares])
        rest = float((factors * totals)[~is_shared].sum())
        if rest == 0:
            raise DataError(
                "No training row outside the datasets with a `share` can be drawn: there is none, or all have the "
                "weight 0. Give data.gps_sampling.weight_brackets or missing_weight a weight above 0 for them."
            )
        left = 1 - sum(share for share in self.shares if share is not None)
        for number, share in enumerate(self.shares):
            if share is None:
                continue
            if share > 0 and totals[number] == 0:
                raise DataError(
                    f"{share:.0%} of the training draws are to be of {self.names[number]}, but no row of it in "
                    "train can be drawn: all were set aside or split away, or have the weight 0. Set its `share` to "
                    "null, its `splits` to train, or data.gps_sampling.missing_weight above 0."
                )
            factors[number] = share * rest / (left * totals[number]) if share > 0 else 0.0
        return factors
