"""Measurements on real photos that may not be published: it prints figures only, and skips where they are missing.

    python -m benchmarks.real familiarity --photos FOLDER --model FOLDER [--draws 100] [--size 32] [--seeds 5]
    python -m benchmarks.real elsewhere --photos FOLDER --model FOLDER [--protocol A] [--seeds 3] [KEY=VALUE ...]

FOLDER of photos: `labels.csv` with a column `source`, and `images/`. FOLDER of the model: a backbone for `model.name`.

`familiarity`: the share of batches that the batch verdict flags, for a model that was trained on one source. Each seed
splits that source anew, trains a head on the frozen backbone, and exports it. Draws come from the photos of the source
that the split kept back, and from the other sources.

`elsewhere` trains `configs/experiment/real_photos.yaml` and evaluates it on photos of cities or cameras that training
has not seen, at the shipped threshold, and on pairs: two halves of one frame with roadwork in one of them.
Protocol A trains on photos from the web, and judges dashcam photos.
Protocol B leaves one US city and one drive in Cambridge out, each city once.
Protocol C trains on all photos, and judges the labelled dataset `--judge`.
With `--json FILE` each finished fold is written at once, and the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from roadwork.config import load_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.core.files import write_json
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import upright_size
from roadwork.detector.detector import Detector
from roadwork.detector.familiarity import UNFAMILIAR, judge, photo_facts
from roadwork.export.export import export_run
from roadwork.models.build import build_model
from roadwork.runs.run import Run
from roadwork.training.trainers.base_trainer import BaseTrainer

TRAINED_ON, OTHERS = "web", ("dashcam-us", "camvid", "road-web")
KEPT_BACK = 0.3
TRAINED_ELSEWHERE, JUDGED_ELSEWHERE = ("web", "road-web"), ("dashcam-us", "camvid")
FIGURES = ("auroc", "balanced_accuracy", "recall", "false_alarm_rate", "mcc")
PAIR_FIGURES = ("balanced_accuracy", "ranked_right")
_BATCH = 32


def select_sources(photos: Path, data: Path, sources: Sequence[str]) -> None:
    """Makes a dataset of the photos of some sources; the images are linked."""
    rows = pd.read_csv(photos / "labels.csv")
    data.mkdir(parents=True)
    rows[rows["source"].isin(sources)].to_csv(data / "labels.csv", index=False)
    (data / "images").symlink_to((photos / "images").resolve())


def train_and_export(data: Path, backbone: str, seed: int, folder: Path, img_size: int) -> tuple[Detector, list[str]]:
    """A detector trained on a dataset, exported to `folder`, and the names of the dataset's val_test photos."""
    cfg = load_config(
        "configs/config.yaml",
        [
            *(f"data.root={data}", f"output_dir={folder / 'runs'}", f"model.name={backbone}"),
            *(f"data.img_size={img_size}", f"data.splitting.seed={seed}", "data.augmentation.train.mode=none"),
            *("training.freeze_backbone=true", "data.gps_sampling.enabled=false", "training.epochs=10"),
            f"data.splits={{train: {0.7 - KEPT_BACK}, val_select: 0.15, val_calib: 0.15, val_test: {KEPT_BACK}}}",
        ],
    )
    settings = to_settings(cfg)
    datamodule = NATIXDataModule(cfg)
    run = BaseTrainer(cfg, build_model(settings.model, img_size)).fit(datamodule)
    export_run(run, folder / "model", format="hf")
    kept_back = datamodule.table.filenames[datamodule.split_names == "val_test"]
    return Detector.load(folder / "model"), kept_back.tolist()


def read_photos(detector: Detector, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and facts (N, F) of photos."""
    features, facts = [], []
    for start in range(0, len(files), _BATCH):
        encoded = [path.read_bytes() for path in files[start : start + _BATCH]]
        pixels = torch.stack([detector.read(data) for data in encoded])
        found = detector.logits_and_features(pixels)[1]
        assert found is not None
        features.append(found.numpy())
        facts += [photo_facts(photo, upright_size(data)) for photo, data in zip(pixels, encoded, strict=True)]
    return np.concatenate(features), np.array(facts)


def measure_familiarity(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One row per draw: seed, source, AUC, threshold, whether it was flagged."""
    table = pd.read_csv(args.photos / "labels.csv")
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # all seeds have the same backbone
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        select_sources(args.photos, data, (TRAINED_ON,))
        for seed in range(args.seeds):
            folder = Path(scratch) / str(seed)
            detector, kept_back = train_and_export(data, args.model, seed, folder, args.img_size)
            names = {f"held-out {TRAINED_ON}": kept_back}
            names |= {source: table.loc[table["source"] == source, "filename"].tolist() for source in OTHERS}
            rng = np.random.default_rng(seed)
            for source, files in names.items():
                missing = [name for name in files if name not in known]
                if missing:
                    found = read_photos(detector, [args.photos / name for name in missing])
                    known |= dict(zip(missing, zip(*found, strict=True), strict=True))
                features, facts = (np.array([known[name][i] for name in files]) for i in (0, 1))
                for _ in range(args.draws // args.seeds):
                    rows = rng.choice(len(files), args.size, replace=False)
                    verdict = judge(detector.reference, features[rows], facts[rows])
                    yield {"seed": seed, "source": source, "flagged": verdict.verdict == UNFAMILIAR} | verdict.as_dict()


def show_familiarity(rows: list[dict[str, object]], size: int) -> str:
    """A Markdown table: draws, flagged ones, median AUC and threshold by source."""
    frame = pd.DataFrame(rows)
    lines = [f"| batches of {size} from | draws | flagged | median AUC | threshold |", "| -- | -- | -- | -- | -- |"]
    for source, draws in frame.groupby("source", sort=False):
        auc, threshold = draws["auc"].median(), draws["threshold"].median()
        lines.append(f"| {source} | {len(draws)} | {int(draws['flagged'].sum())} | {auc:.2f} | {threshold:.2f} |")
    return "\n".join(lines)


def run_command(*arguments: str) -> None:
    """Runs `roadwork`; its output goes to standard error."""
    command = [sys.executable, "-c", "from roadwork.cli import main; main()", *arguments]
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603 -- our own command


@dataclass(frozen=True)
class Fold:
    """The rows of one training and of its evaluation.

    Attributes:
        name: of the fold.
        train: (N,) rows of `labels.csv` to train on.
        judge: (N,) rows to evaluate.
        pairs: (P,) rows of `pairs.csv` to evaluate.
    """

    name: str
    train: pd.Series
    judge: pd.Series
    pairs: pd.Series


def plan_folds(protocol: str, rows: pd.DataFrame, pairs: pd.DataFrame) -> list[Fold]:
    """The folds of protocol A, B or C; those of C have no rows to judge."""
    if protocol == "A":
        is_judged = rows["source"].isin(JUDGED_ELSEWHERE)
        return [Fold("A", rows["source"].isin(TRAINED_ELSEWHERE), is_judged, pairs["city"].notna())]
    if protocol == "C":
        return [Fold("C", rows["source"].notna(), rows["source"].isna(), pairs["city"].isna())]
    us, drives = (
        rows["source"] == JUDGED_ELSEWHERE[0],
        sorted(rows.loc[rows["source"] == "camvid", "sequence_id"].unique()),
    )
    folds = []
    for number, city in enumerate(sorted(rows.loc[us, "city"].unique())):
        is_left_out = (us & (rows["city"] == city)) | (rows["sequence_id"] == drives[number % len(drives)])
        folds.append(Fold(city, ~is_left_out, is_left_out, pairs["city"] == city))
    return folds


def link_photos(photos: Path, folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """A dataset of these rows, with `name` as its table; the images are linked."""
    folder.mkdir(parents=True)
    rows.to_csv(folder / name, index=False)
    for images in ("images", "pairs"):
        (folder / images).symlink_to((photos / images).resolve())
    return folder


def read_finished(args: argparse.Namespace) -> list[dict[str, object]]:
    """The rows of `--json` that an interrupted measurement has finished.

    Raises:
        ConfigError: the file was measured with other settings.
    """
    if not args.json or not args.json.is_file():
        return []
    rows: list[dict[str, object]] = json.loads(args.json.read_text(encoding="utf-8"))
    others = {str(row.get("settings")) for row in rows} - {settings_of(args)}
    if others:
        raise ConfigError(
            f"{args.json} was measured with {'; '.join(sorted(others))}, not with {settings_of(args)}. "
            "Restore the settings, or name another file."
        )
    return rows


def settings_of(args: argparse.Namespace) -> str:
    """What distinguishes two measurements of `elsewhere`, besides the code."""
    judge = [f"judged on {args.judge.name}"] if args.judge else []
    return " ".join([f"protocol {args.protocol}", Path(args.model).name, *judge, *args.overrides])


def measure_elsewhere(args: argparse.Namespace, known: set[tuple[object, object]]) -> Iterator[dict[str, object]]:
    """One row per fold and seed: n, the figures of `FIGURES`, those of the pairs, and the MCC on val_test.

    Args:
        args: of the command line.
        known: folds and seeds to leave out.
    """
    rows, pairs = (pd.read_csv(args.photos / name, dtype={"label": int}) for name in ("labels.csv", "pairs.csv"))
    with tempfile.TemporaryDirectory() as scratch:
        for fold in plan_folds(args.protocol, rows, pairs):
            data = link_photos(args.photos, Path(scratch) / fold.name / "train", "labels.csv", rows[fold.train])
            judged = {"judge": args.judge} if args.judge else {}
            if fold.judge.any():
                judged["judge"] = link_photos(args.photos, data.parent / "judge", "labels.csv", rows[fold.judge])
            if fold.pairs.any():
                folder = link_photos(args.photos, data.parent / "halves", "pairs.csv", pairs[fold.pairs])
                judged["pairs"] = folder / "pairs.csv"
            for seed in range(args.seeds):
                if (fold.name, seed) not in known:
                    row = train_and_judge(args, data, judged, f"{fold.name}-{seed}", seed)
                    yield {"fold": fold.name, "seed": seed, "settings": settings_of(args)} | row


def train_and_judge(
    args: argparse.Namespace, data: Path, judged: dict[str, Path], name: str, seed: int
) -> dict[str, object]:
    """Trains the recipe and evaluates it on datasets; see `measure_elsewhere`."""
    settings = [f"data.root={data}", f"model.name={args.model}", f"output_dir={data.parent}/runs"]
    settings += [f"experiment={name}", f"training.seed={seed}", *args.overrides]
    run_command("train", "--config", "configs/experiment/real_photos.yaml", *settings)
    run = data.parent / "runs" / name / "latest"
    for command in ("evaluate", "calibrate"):
        run_command(command, str(run))
    row: dict[str, object] = {"val_test_mcc": Run(run).read_results()["val_test"]["mcc"]}
    for part, dataset in judged.items():
        run_command("evaluate", str(run), "--on", str(dataset), "--out", str(run / "on" / part))
        result = json.loads((run / "on" / part / "results.json").read_text())
        if result["overall"]:
            row |= {"n": result["overall"]["n"]} | {figure: result["overall"][figure] for figure in FIGURES}
        if result["pairs"]:
            row |= {f"pairs_{figure}": result["pairs"][figure] for figure in ("n", *PAIR_FIGURES)}
    return row


def show_elsewhere(rows: list[dict[str, object]]) -> str:
    """A Markdown table: the figures of each fold and seed, the means over the folds of a seed, and their medians."""
    frame = pd.DataFrame(rows).drop(columns="settings")
    columns = [name for name in frame.columns if name not in ("fold", "seed", "n", "pairs_n")]
    by_seed = frame.groupby("seed")[columns].mean()
    summary = []
    if len(by_seed) < len(frame):
        summary += [{"fold": "mean", "seed": seed} | means.to_dict() for seed, means in by_seed.iterrows()]
    summary.append({"fold": "median of seeds", "seed": ""} | by_seed.median().to_dict())
    lines = [f"| {' | '.join(frame.columns)} |", f"|{' -- |' * len(frame.columns)}"]
    for row in [*frame.to_dict("records"), *summary]:
        values = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in (row.get(name, "") for name in frame.columns)]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    familiarity = commands.add_parser("familiarity", help="share of batches that the batch verdict flags")
    familiarity.add_argument("--photos", type=Path, required=True)
    familiarity.add_argument("--model", required=True)
    familiarity.add_argument("--draws", type=int, default=100)
    familiarity.add_argument("--size", type=int, default=32)
    familiarity.add_argument("--seeds", type=int, default=5)
    familiarity.add_argument("--img-size", type=int, default=224)
    familiarity.add_argument("--json", type=Path)
    elsewhere = commands.add_parser("elsewhere", help="a model trained on web photos, on dashcams of other cities")
    elsewhere.add_argument("--photos", type=Path, required=True)
    elsewhere.add_argument("--model", required=True)
    elsewhere.add_argument("--protocol", choices=("A", "B", "C"), default="A")
    elsewhere.add_argument("--judge", type=Path, help="a labelled dataset to evaluate on, for protocol C")
    elsewhere.add_argument("--seeds", type=int, default=3)
    elsewhere.add_argument("--json", type=Path)
    elsewhere.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    if not (args.photos / "labels.csv").is_file():
        Console().print(f"Skipped: there is no {args.photos / 'labels.csv'}.")
        return
    if args.command == "familiarity":
        rows = list(measure_familiarity(args))
        table = show_familiarity(rows, args.size)
    else:
        rows = read_finished(args)
        for row in measure_elsewhere(args, {(row["fold"], row["seed"]) for row in rows}):
            rows.append(row)
            if args.json:
                write_json(args.json, rows)
        table = show_elsewhere(rows)
    Console().print(table, soft_wrap=True)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
