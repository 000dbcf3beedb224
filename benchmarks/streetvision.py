"""The effect of training on challenge pictures on StreetVision's simulated reward.

    python -m benchmarks.streetvision [--seeds 3] [--out FOLDER] [--json FILE] [KEY=VALUE ...]
    python -m benchmarks.streetvision --photos FOLDER --model FOLDER [...]

For each seed, it trains with the default augmentation and with `streetvision`, evaluates, calibrates, and evaluates
under both validator profiles. Both runs of a seed have the same seed, splits and epochs. Without `--photos` it trains
`configs/experiment/demo.yaml` on the demo data. With `--photos` (`labels.csv` and `images/`) it trains a head on the
frozen backbone of `--model`, and prints figures only.

The bootstrap interval draws groups of val_test and seeds. The Student interval uses only the differences of the seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import stats

from benchmarks.real import run_command, select_sources
from roadwork.evaluation.streetvision.evaluate import ABOVE_HALF, LEVEL_COLUMN, SCORE_COLUMN, predictions_file
from roadwork.evaluation.streetvision.reward import PROFILES, simulate_reward
from roadwork.experiments.comparison import summarise
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import decide
from roadwork.metrics.intervals import bootstrap_mcc, count_paired
from roadwork.metrics.predictions import read_predictions

MODES = ("latest_2025", "streetvision")
FROZEN = ("data.img_size=168", "training.freeze_backbone=true", "training.epochs=10", "data.gps_sampling.enabled=false")
DRAWS = 1000
_WINDOWS = 500
_CELLS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])  # label and decision of tn, fp, fn, tp


def train_and_evaluate(config: str, out: Path, mode: str, seed: int, overrides: Sequence[str]) -> Path:
    """The folder of a run, calibrated and evaluated under all profiles. A finished one is used again."""
    name = f"{mode}-{seed}"
    run = out / name / "latest"
    if all((run / predictions_file(profile)).is_file() for profile in PROFILES):
        return run
    settings = [f"output_dir={out}", f"experiment={name}", f"training.seed={seed}", *overrides]
    run_command("train", "--config", config, *settings, f"data.augmentation.train.mode={mode}")
    run_command("evaluate", str(run))
    run_command("calibrate", str(run))
    for profile in PROFILES:
        run_command("evaluate", str(run), "--profile", profile)
    return run


def mean_reward(counts: np.ndarray) -> np.ndarray:
    """(...) simulated rewards for counts tn, fp, fn, tp (..., 4); NaN where a label is missing."""
    rewards = []
    for row in counts.reshape(-1, 4).round().astype(int):
        labels, decisions = np.repeat(_CELLS, row, axis=0).T
        is_defined = len(np.unique(labels)) == 2
        rewards.append(simulate_reward(labels, decisions, windows=_WINDOWS).mean if is_defined else np.nan)
    return np.array(rewards).reshape(counts.shape[:-1])


def compare_modes(frames: Sequence[Sequence[pd.DataFrame]], profile: str) -> list[dict[str, Any]]:
    """One row for the reward, and one for the MCC at each level: each mode, and the second minus the first.

    Args:
        frames: predictions under the profile by seed and mode, with equal rows.
        profile: its name.
    """
    first = frames[0][0]
    levels = first[LEVEL_COLUMN].to_numpy() if LEVEL_COLUMN in first else np.zeros(len(first), dtype=np.int64)
    decisions = np.array([[decide(frame[SCORE_COLUMN].to_numpy(), ABOVE_HALF) for frame in row] for row in frames])
    n_levels = levels.max() + 1
    counts = count_paired(first["label"].to_numpy(), decisions, first["group"].to_numpy(), levels, n_levels)
    figures = [("reward", mean_reward, np.ones(n_levels))]
    figures += [(f"MCC, level {level}", mcc, row) for level, row in enumerate(np.eye(n_levels))]
    if n_levels == 1:
        figures[1] = ("MCC", mcc, np.ones(1))
    rows = []
    for figure, metric, weights in figures:
        by_seed = metric(np.einsum("c,gcsaf->saf", weights, counts))  # (S, A)
        drawn = bootstrap_mcc(counts, weights[None], draws=DRAWS, seed=0, metric=metric)[:, 0]  # (draws, A)
        gaps = by_seed[:, 1] - by_seed[:, 0]
        difference = summarise(gaps, drawn[:, 1] - drawn[:, 0], "by_seed")
        if len(gaps) > 1:
            half = stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
            difference["student"] = [float(gaps.mean() - half), float(gaps.mean() + half)]
        rows.append(
            {"profile": profile, "figure": figure, "photos": first["id"].nunique(), "groups": len(counts)}
            | {mode: summarise(by_seed[:, place], drawn[:, place], "by_seed") for place, mode in enumerate(MODES)}
            | {"difference": difference}
        )
    return rows


def read_frames(runs: Sequence[Sequence[Path]], profile: str) -> list[list[pd.DataFrame]]:
    """The predictions of runs by seed and mode; a ValueError if their rows differ."""
    frames = [[read_predictions(run / predictions_file(profile)) for run in row] for row in runs]
    if any((frame["id"].to_numpy() != frames[0][0]["id"].to_numpy()).any() for row in frames for frame in row):
        raise ValueError("The runs were evaluated on different rows.")
    return frames


def show(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with 95 % intervals."""
    head = ("profile", "figure", *MODES, "difference", "by seed", "Student interval")
    lines = [f"| {' | '.join(head)} |", f"|{' -- |' * len(head)}"]
    for row in rows:
        modes = [f"{own['value']:.3f} ({own['low']:.3f} to {own['high']:.3f})" for own in (row[mode] for mode in MODES)]
        gap = row["difference"]
        by_seed = ", ".join(f"{value:+.3f}" for value in gap["by_seed"])
        student = "{:+.3f} to {:+.3f}".format(*gap["student"]) if "student" in gap else "-"
        difference = f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        lines.append(f"| {' | '.join([row['profile'], row['figure'], *modes, difference, by_seed, student])} |")
    return "\n".join(lines)


def measure(args: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """The rows of the table."""
    config, overrides = "configs/experiment/demo.yaml", args.overrides
    if args.photos:
        data = out / "data"
        if not data.is_dir():
            sources = pd.read_csv(args.photos / "labels.csv")["source"].unique()
            select_sources(args.photos, data, sources)
        config = "configs/config.yaml"
        overrides = [f"data.root={data}", f"model.name={args.model}", *FROZEN, *overrides]
    used = out / "settings.json"
    if used.is_file() and json.loads(used.read_text()) != [config, *overrides]:
        raise SystemExit(f"{out} has runs with other settings: {used}. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    used.write_text(json.dumps([config, *overrides]))
    runs = [[train_and_evaluate(config, out, mode, seed, overrides) for mode in MODES] for seed in range(args.seeds)]
    return [row for profile in PROFILES for row in compare_modes(read_frames(runs, profile), profile)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streetvision", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--photos", type=Path, help="folder with labels.csv (column source) and images/")
    parser.add_argument("--model", help="folder of a pretrained backbone, with --photos")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder that keeps the runs; finished ones are used again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    if args.photos and not (args.photos / "labels.csv").is_file():
        Console().print(f"Skipped: there is no {args.photos / 'labels.csv'}.")
        return
    if (args.photos is None) != (args.model is None):
        parser.error("--photos and --model belong together")
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(args, args.out or Path(scratch))
    n = rows[0]
    Console().print(f"val_test: {n['photos']} photos in {n['groups']} groups, {args.seeds} seeds, 95 % intervals")
    Console().print(show(rows), soft_wrap=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
