"""Shortcut baselines on the demo's val_test: predicts labels from colours or positions alone.

Example: python scripts/demo_shortcuts.py data.root=data/demo
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from roadwork.config import load_config, to_settings
from roadwork.data.local import read_local
from roadwork.data.open import find_groups, find_splits

BINS = 8


def color_histogram(path: Path) -> np.ndarray:
    """Returns a normalised RGB histogram with 8 x 8 x 8 bins, as (512,)."""
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int) * BINS // 256
    return np.bincount(pixels @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3) / len(pixels)


def main(overrides: list[str]) -> None:
    """Fits logistic regressions on train and prints their MCC on val_test."""
    settings = to_settings(load_config("configs/config.yaml", overrides))
    table, images = read_local(Path(settings.data.root), settings.data.columns, settings.data.class_names)
    groups = find_groups(settings.data, table, images)
    splits = find_splits(settings, table, groups).names_by_row(table)
    histograms = np.stack([color_histogram(path) for path in images.paths])
    everywhere = np.ones(len(table), dtype=bool)
    plain = LogisticRegression(max_iter=1000)
    scaled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for name, model, features, rows in (
        ("colour histogram, plain", plain, histograms, everywhere),
        ("colour histogram, standardised", scaled, histograms, everywhere),
        ("colour histogram, square root, standardised", scaled, histograms**0.5, everywhere),
        ("latitude and longitude", scaled, table.gps, table.has_gps),
    ):
        train, test = rows & (splits == "train"), rows & (splits == "val_test")
        decided = model.fit(features[train], table.labels[train]).predict(features[test])
        print(f"{name}: MCC {matthews_corrcoef(table.labels[test], decided):.3f} on {test.sum()} rows")


if __name__ == "__main__":
    main(sys.argv[1:])
