"""Measures gain and cost of test-time views on a run's validation photos, without opening val_test.

Run: python scripts/measure_views.py outputs/demo/latest
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from roadwork.config import load_yaml
from roadwork.core.progress import track
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import to_network_input
from roadwork.detector.views import NONE, VIEWS, combine, read_views
from roadwork.evaluation.evaluate import build_run_datamodule, load_best_model
from roadwork.metrics.classification import mcc, score_probabilities
from roadwork.metrics.decision import decide, margin, probability
from roadwork.metrics.intervals import (
    MIN_FAILED_GROUPS,
    bootstrap_mcc,
    count_paired,
    effective_groups,
    percentile_interval,
)
from roadwork.runs.run import Run
from roadwork.settings.sampling import VALIDATION_SPLITS

BATCH, TIMED_PHOTOS, ROUNDS = 32, 64, 5
Differences = Callable[[np.ndarray, str], Tensor]


def main() -> None:
    folder = Run.open(Path(sys.argv[1])).folder
    datamodule = build_run_datamodule(load_yaml(folder / "config.yaml"), folder)
    differences = differences_of(folder, datamodule)
    rows = np.concatenate([datamodule.datasets[split].rows for split in VALIDATION_SPLITS])
    labels, groups = datamodule.table.labels[rows], np.asarray(datamodule.groups.names)[rows]
    temperature, threshold = read_calibration(folder)
    shift = np.log(threshold / (1 - threshold))
    calibrated = {}
    for views in VIEWS:
        parts = np.array_split(rows, max(1, len(rows) // BATCH))
        looks = torch.cat([differences(part, views) for part in track(parts, len(parts), f"Views: {views}")])
        calibrated[views] = combine(looks / temperature).numpy()
    folded = np.stack([probability(d - shift) for d in calibrated.values()])  # decided at 0.5
    counts = count_paired(labels, folded[None], groups, np.zeros(len(labels), dtype=np.int64), 1)
    settings = datamodule.settings.evaluation
    drawn = bootstrap_mcc(counts, np.ones((1, 1)), draws=settings.bootstrap_draws, seed=settings.seed)[:, 0]
    scores = mcc(counts.sum(axis=(0, 1, 2)))
    times = measure_times(differences, rows[:: max(1, len(rows) // TIMED_PHOTOS)][:TIMED_PHOTOS])
    is_right = decide(folded) == labels
    table = Table(
        *("views", "MCC", "difference [95 %]", "fixed", "broken", "NLL", "ECE", "time"),
        title=f"{len(rows):,} photos in {len(np.unique(groups)):,} groups of {' and '.join(VALIDATION_SPLITS)}; "
        f"time: median ratio over {ROUNDS} rounds of {TIMED_PHOTOS} photos, including reading",
    )
    for i, views in enumerate(VIEWS):
        low, high = percentile_interval(drawn[:, i] - drawn[:, 0])
        quality = score_probabilities(labels, probability(calibrated[views]))
        table.add_row(
            *(views, f"{scores[i]:.4f}", f"{scores[i] - scores[0]:+.4f} [{low:+.4f}, {high:+.4f}]"),
            *(str((is_right[i] & ~is_right[0]).sum()), str((~is_right[i] & is_right[0]).sum())),
            *(f"{quality['nll']:.4f}", f"{quality['ece']:.4f}", f"{times[views]:.2f}x"),
        )
    console = Console(width=110)
    console.print(table)
    _, codes = np.unique(groups, return_inverse=True)
    for i, views in enumerate(VIEWS[1:], start=1):
        deciding = effective_groups(np.bincount(codes, is_right[i] != is_right[0]))
        if deciding < MIN_FAILED_GROUPS:
            console.print(
                f"{views}: decisions change in {deciding:.1f} effective groups. With fewer than "
                f"{MIN_FAILED_GROUPS} the interval is unreliable, and the difference is inconclusive."
            )


def differences_of(folder: Path, datamodule: NATIXDataModule) -> Differences:
    """Returns a function from rows (N,) and a view mode to logit differences (N, V) of the best checkpoint."""
    network = load_best_model(folder, datamodule.settings)
    size = datamodule.settings.data.img_size

    @torch.inference_mode()
    def differences(rows: np.ndarray, views: str) -> Tensor:
        pixels = torch.stack([read_views(datamodule.source.read(row), size, views) for row in rows.tolist()])
        logits = network(pixel_values=to_network_input(pixels.flatten(0, 1), datamodule.statistics)).logits.double()
        return margin(logits).view(pixels.shape[:2])

    return differences


def measure_times(differences: Differences, rows: np.ndarray) -> dict[str, float]:
    """Returns the time of each view mode relative to no views. Rounds alternate, so that load affects all modes."""
    times: dict[str, list[float]] = {views: [] for views in VIEWS}
    for turn in range(ROUNDS + 1):
        for views in VIEWS:
            start = time.perf_counter()
            for part in np.array_split(rows, max(1, len(rows) // BATCH)):
                differences(part, views)
            if turn:  # the first round warms up
                times[views].append(time.perf_counter() - start)
    return {views: float(np.median(np.divide(times[views], times[NONE]))) for views in VIEWS}


def read_calibration(folder: Path) -> tuple[float, float]:
    """Returns the temperature and threshold of the run; 1 and 0.5 if it is not calibrated."""
    path = folder / "calibration.json"
    calibration = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return calibration.get("temperature", 1.0), calibration.get("threshold", 0.5)


if __name__ == "__main__":
    main()
