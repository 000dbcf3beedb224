"""The place on the map where a detector does worst."""

from __future__ import annotations

from dataclasses import dataclass

import h3
import numpy as np

from roadwork.data.utils.cells import h3_cells
from roadwork.evaluation.metrics import mcc
from roadwork.experiments.paired_bootstrap import count_paired

# A cell is judged with so many rows of either label; fewer make an MCC of chance.
MIN_ROWS_A_LABEL = 10
# The finest of these H3 resolutions (edges of 9, 23, 60, 160 and 420 km) whose judged cells hold so large a share of
# the rows with GPS.
_RESOLUTIONS = (5, 4, 3, 2, 1)
_MIN_SHARE = 0.8


@dataclass(frozen=True)
class JudgedCells:
    """Cells with enough rows of both labels.

    Attributes:
        resolution: H3's.
        names: (C,) of the judged cells.
        rows: (N,) int64 cell of each row, C where it is in none of them.
    """

    resolution: int
    names: np.ndarray
    rows: np.ndarray

    @property
    def centers_deg(self) -> np.ndarray:
        """(C, 2) latitude, longitude in degrees."""
        return np.array([h3.cell_to_latlng(name) for name in self.names]).reshape(-1, 2)


def judge_cells(labels: np.ndarray, gps: np.ndarray) -> JudgedCells:
    """The cells that can be judged, at the finest resolution that leaves few rows out, else the coarsest."""
    n_with_gps = (~np.isnan(gps).any(axis=1)).sum()
    for resolution in _RESOLUTIONS:
        names, codes = np.unique(h3_cells(gps, resolution).astype(str), return_inverse=True)
        counts = np.bincount(2 * codes + labels, minlength=2 * len(names)).reshape(-1, 2)
        enough = (counts >= MIN_ROWS_A_LABEL).all(axis=1) & (names != "")
        if counts[enough].sum() >= _MIN_SHARE * n_with_gps:
            break
    numbers = np.where(enough, np.cumsum(enough) - 1, enough.sum())
    return JudgedCells(resolution, names[enough], numbers[codes])


def mcc_by_cell(cells: JudgedCells, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(C, A) MCC of each judged cell and model, the mean over seeds.

    Args:
        cells: C of N rows.
        labels: (N,) 0 or 1.
        probabilities: (S, A, N) of Roadwork.
    """
    one_group = np.zeros(len(labels), dtype=np.int64)
    counts = count_paired(labels, probabilities, one_group, cells.rows, len(cells.names) + 1)[0, :-1]
    means: np.ndarray = mcc(counts).mean(axis=1)
    return means
