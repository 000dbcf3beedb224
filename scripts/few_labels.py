"""Compares training from scratch with pretrained weights on few labels.

Example:
    roadwork demo-data data/demo
    python scripts/few_labels.py --model DIR            train; reads only train and val_select
    python scripts/few_labels.py --model DIR --judge    open val_test once per run, and compare

Rows are sampled as whole groups, so that few labels also means few places.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np

from roadwork.config import load_config, to_settings
from roadwork.data.open import find_groups, find_splits
from roadwork.data.source import read_dataset
from roadwork.metrics.classification import mcc
from roadwork.metrics.intervals import bootstrap_mcc, count_paired, percentile_interval
from roadwork.metrics.predictions import read_predictions
from roadwork.settings import SPLIT_NAMES

CONFIG = "configs/experiment/demo.yaml"
OUT = Path("outputs/few-labels")
PRETRAINED = ("model=dinov2_small", "data.img_size=112", "data.dataloader.batch_size=16")
CONDITIONS = {
    "scratch": ("training.epochs=80",),
    "probe": (*PRETRAINED, "training.freeze_backbone=true", "data.augmentation.train.mode=none", "training.epochs=80"),
    "lora": (*PRETRAINED, "training.adapter=lora", "training.lr=0.001", "training.epochs=10"),
}
DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with the pretrained weights")
    parser.add_argument("--share", type=float, default=0.1, help="fraction of the training rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS), choices=list(CONDITIONS))
    parser.add_argument("--judge", action="store_true", help="open val_test")
    parser.add_argument("--set", nargs="*", default=[], help="key=value overrides for all conditions")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    splits = write_splits(args.share)
    for seed in range(args.seeds):
        for condition in args.conditions:
            common = [
                f"experiment=few-labels/{condition}-{seed}",
                f"training.seed={seed}",
                f"data.splits_file={splits}",
            ]
            if condition != "scratch":
                common.append(f"model.name={args.model}")
            if not run_of(condition, seed).exists():
                roadwork("train", "--config", CONFIG, *common, *CONDITIONS[condition], "training.patience=0", *args.set)
            if args.judge:
                roadwork("evaluate", str(run_of(condition, seed)))
    if args.judge:
        compare(args.conditions, args.seeds)


def run_of(condition: str, seed: int) -> Path:
    return OUT / f"{condition}-{seed}" / "latest"


def roadwork(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).with_name("roadwork"), *arguments], check=True)  # noqa: S603 -- our own command


def write_splits(share: float) -> Path:
    """Writes the demo's splits with a fraction of the training rows of each label, sampled as whole groups."""
    settings = to_settings(load_config(CONFIG))
    table, source = read_dataset(settings.data)
    groups = find_groups(settings.data, table, source)
    names = find_splits(settings, table, groups).names_by_row(table)
    in_train = names == "train"
    left = share * np.bincount(table.labels[in_train], minlength=2)
    kept = np.zeros(len(table), dtype=bool)
    for group in np.random.default_rng(0).permutation(np.unique(groups.names[in_train])):
        members = in_train & (groups.names == group)
        counts = np.bincount(table.labels[members], minlength=2)
        if np.all((counts == 0) | (left > 0)):
            kept |= members
            left -= counts
    names[in_train & ~kept] = ""
    print(f"{kept.sum()} of {in_train.sum()} training rows, {table.labels[kept].sum()} of them roadwork")
    path = OUT / f"splits-{share:g}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: table.ids[names == name].tolist() for name in SPLIT_NAMES}), encoding="utf-8")
    return path


def compare(conditions: list[str], n_seeds: int) -> None:
    """Prints each condition's MCC on val_test, and its difference from the first, by a paired bootstrap."""
    frames = [
        [
            read_predictions(run_of(condition, seed) / "predictions.parquet").query("split == 'val_test'")
            for condition in conditions
        ]
        for seed in range(n_seeds)
    ]
    first = frames[0][0]
    if any((frame["id"].to_numpy() != first["id"].to_numpy()).any() for row in frames for frame in row):
        sys.exit("The runs were evaluated on different rows.")
    probabilities = np.array([[frame["probability"].to_numpy() for frame in row] for row in frames])
    strata = np.zeros(len(first), dtype=np.int64)
    counts = count_paired(first["label"].to_numpy(), probabilities, first["group"].to_numpy(), strata, 1)
    drawn = bootstrap_mcc(counts, np.ones((1, 1)), draws=DRAWS, seed=0)[:, 0]
    exact = mcc(counts.sum(axis=0)[0]).mean(axis=0)  # (S, A, 4) to (A,)
    print(f"val_test: {len(first)} rows in {first['group'].nunique()} groups, {n_seeds} seeds, 95 % intervals")
    for number, condition in enumerate(conditions):
        low, high = percentile_interval(drawn[:, number])
        line = f"{condition:8} {exact[number]:.4f} ({low:.4f} to {high:.4f})"
        if number:
            low, high = percentile_interval(drawn[:, number] - drawn[:, 0])
            line += f"; against {conditions[0]} {exact[number] - exact[0]:+.4f} ({low:+.4f} to {high:+.4f})"
        print(line)


if __name__ == "__main__":
    main()
