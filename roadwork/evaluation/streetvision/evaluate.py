"""Evaluates a run on challenge images as the StreetVision validator does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import cpu_count
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from roadwork.core.devices import choose_device
from roadwork.core.errors import DataError
from roadwork.core.files import write_json
from roadwork.core.progress import track
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import UnreadableImage, UnreadableImageError, read_pixels, to_network_input
from roadwork.detector.folding import read_calibration
from roadwork.detector.format import ExportFacts
from roadwork.evaluation.evaluate import open_run, predict_splits, tabulate
from roadwork.evaluation.streetvision.challenge import make_challenges
from roadwork.evaluation.streetvision.reward import MCC_ANSWERS, find_profile, simulate_reward
from roadwork.metrics.decision import decide, folded_score
from roadwork.metrics.predictions import predicted_margins, write_predictions
from roadwork.metrics.results import evaluate_for, evaluate_slice
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

LEVEL_COLUMN = "challenge_level"

# Photos whose challenges are in memory at once.
_BATCH_PHOTOS = 16
SCORE_COLUMN = "challenge_score"

# The validator rounds the score, so 0.5 itself counts as None.
ABOVE_HALF = math.nextafter(0.5, 1.0)
_LEVELS = ("centre square", "turned and cropped", "also distorted", "distorted more")


def predict_challenges(
    datamodule: NATIXDataModule, model: nn.Module, split: str, levels: tuple[int, ...], seed: int
) -> pd.DataFrame:
    """The predictions table of a split's readable photos, each at every level, in the column `challenge_level`.

    Args:
        datamodule: of the run, set up.
        model: of the run, in evaluation mode.
        split: whose photos.
        levels: 0 to 3.
        seed: of the challenges.

    Raises:
        DataError: more photos cannot be read than `data.max_unreadable` allows, or none can.
    """
    device = choose_device()
    model = model.to(device)
    rows, logits = [], []
    for row, pixels in _read_challenges(datamodule, split, levels, seed):
        with torch.inference_mode():
            images = to_network_input(pixels.to(device), datamodule.statistics)
            logits.append(model(pixel_values=images).logits.cpu().double().numpy())
        rows.append(row)
    if not rows:
        raise DataError(f"No photo of {split} could be read. Fix them, or give the split other rows.")
    chosen, by_row = np.array(rows), np.stack(logits)
    frames = [
        tabulate(datamodule, chosen, by_row[:, place]).assign(**{LEVEL_COLUMN: level})
        for place, level in enumerate(levels)
    ]
    return pd.concat(frames, ignore_index=True)


def _read_challenges(
    datamodule: NATIXDataModule, split: str, levels: tuple[int, ...], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Each readable row of a split, and its challenges (levels, 3, S, S) uint8, read like the run's photos."""
    rows: list[int] = datamodule.datasets[split].rows.tolist()
    read = partial(_read_row, datamodule, levels=levels, seed=seed)
    batches = [rows[start : start + _BATCH_PHOTOS] for start in range(0, len(rows), _BATCH_PHOTOS)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        # One batch at a time, so that images do not pile up in memory before the network.
        found = (pair for batch in batches for pair in zip(batch, pool.map(read, batch), strict=True))
        for row, pixels in track(found, len(rows), f"Challenging {split}"):
            if isinstance(pixels, UnreadableImage):
                datamodule.ledger.add([pixels])
            else:
                yield row, pixels


def _read_row(datamodule: NATIXDataModule, row: int, *, levels: tuple[int, ...], seed: int) -> Tensor | UnreadableImage:
    try:
        challenges = make_challenges(datamodule.source.read(row), levels, str(datamodule.table.ids[row]), seed)
    except UnreadableImageError as error:
        return UnreadableImage(row, str(error))
    return torch.stack([read_pixels(challenge, datamodule.settings.data.img_size) for challenge in challenges])


def evaluate_profile(folder: Path, profile_name: str) -> dict[str, Any]:
    """Metrics and simulated reward on `val_test` under a profile; the opening is counted.

    Writes `predictions_<profile>.parquet`, and adds `val_test_<profile>` to `results.json`.

    Args:
        folder: a run folder. The temperature and threshold of a calibrated run are folded in, as in an export.
        profile_name: such as `streetvision-2026-01`.

    Returns:
        The entry in `results.json`.

    Raises:
        ConfigError: the profile is unknown.
        DataError: the run, its data or its calibration cannot be used.
    """
    profile = find_profile(profile_name)
    run = Run(folder)
    facts = read_calibration(run) or ExportFacts()
    others = run.read_results()
    datamodule, model = open_run(folder)
    settings = datamodule.settings
    opened = run.count_opening()
    if profile.levels:
        frame = predict_challenges(datamodule, model, TEST_SPLIT, profile.levels, settings.evaluation.seed)
    else:
        frame = predict_splits(datamodule, model, (TEST_SPLIT,))
    frame[SCORE_COLUMN] = folded_score(predicted_margins(frame), facts.temperature, facts.threshold)
    write_predictions(frame, folder / predictions_file(profile.name))
    result = score_profile(frame, settings) | {
        "profile": profile.name,
        "temperature": facts.temperature,
        "threshold": facts.threshold,
        "openings": opened,
        "unreadable": len(datamodule.ledger.reasons),
        "leaks": list(datamodule.split_report.leak_warnings),
    }
    write_json(run.results_file, others | {result_key(profile.name): result})
    run.write_manifest()
    return result


def result_key(profile_name: str) -> str:
    """The key of a profile's metrics in `results.json`."""
    return f"{TEST_SPLIT}_{profile_name}"


def predictions_file(profile_name: str) -> str:
    """The file name of a profile's predictions."""
    return f"predictions_{profile_name}.parquet"


def score_profile(frame: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """Metrics with intervals, by level if there are levels, and the simulated reward, ready for JSON.

    Args:
        frame: predictions with scores; each level has the same photos.
        settings: of the run.
    """
    scored = frame.assign(probability=frame[SCORE_COLUMN])
    options = {"draws": settings.evaluation.bootstrap_draws, "seed": settings.evaluation.seed}
    result = evaluate_for(settings, scored, ABOVE_HALF)
    if LEVEL_COLUMN in frame:
        result["by_level"] = [
            {"level": level} | evaluate_slice(rows, threshold=ABOVE_HALF, **options)
            for level, rows in scored.groupby(LEVEL_COLUMN)
        ]
    labels = frame["label"].to_numpy()
    result["reward"] = None
    if len(np.unique(labels)) == 2:
        decisions = decide(frame[SCORE_COLUMN].to_numpy(), ABOVE_HALF)
        result["reward"] = asdict(simulate_reward(labels, decisions, seed=settings.evaluation.seed))
    return result


def format_profile(result: dict[str, Any]) -> Group:
    """A report for the terminal: MCC by level and overall, the reward, and the errors that no model can avoid."""
    profile = find_profile(result["profile"])
    title = Text.assemble(
        (f"val_test as {profile.name}", "bold"), f": {result['n']:,} pictures in {result['groups']:,} groups"
    )
    calibration = (
        f"Decided above 0.5, with temperature {result['temperature']:.4g} and threshold {result['threshold']:.4g} "
        "folded in."
    )
    leaks = [Text.assemble(("Leaks  ", "bold red"), leak) for leak in result["leaks"]]
    lines: list[Text | Table] = [title, Text(profile.meaning), Text(calibration), _table(result), *leaks]
    lines.append(Text.assemble(("Reward  ", "bold"), _reward_sentence(result["reward"])))
    if "by_level" in result:
        lines.append(
            Text.assemble(
                ("Unavoidable  ", "bold"),
                "Levels 1 to 3 cut a square of 20 to 100 % of the area out of a photo. Where that loses the roadwork, "
                "no model can be right, so the best MCC there is below 1.",
            )
        )
    return Group(*lines)


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("level")
    for header in ("pictures", "errors", "MCC"):
        table.add_column(header, justify="right")
    table.add_column("95 % interval", justify="center")
    for row in result.get("by_level", []):
        table.add_row(f"{row['level']} {_LEVELS[row['level']]}", *_cells(row, row["errors"]))
    errors = result["confusion"]["fp"] + result["confusion"]["fn"]
    table.add_row("all", *_cells(result, errors), style="bold")
    return table


def _cells(row: dict[str, Any], errors: int) -> tuple[str, str, str, str]:
    mcc, interval = "-", "-"
    if row["mcc"] is not None:
        mcc, interval = f"{row['mcc']:.4f}", f"{row['mcc_low']:.4f} to {row['mcc_high']:.4f}"
    return f"{row['n']:,}", f"{errors:,}", mcc, interval


def _reward_sentence(reward: dict[str, Any] | None) -> str:
    if reward is None:
        return "None can be simulated: the set holds one class only, and the validator draws both."
    return (
        f"{reward['mean']:.3f} on average, {reward['low']:.3f} in the 5th percentile, over {reward['windows']:,} "
        f"simulated windows of {MCC_ANSWERS} answers, labels drawn 50/50."
    )
