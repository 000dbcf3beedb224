"""`roadwork preflight`: checks of the environment, the data and the settings, without a training step."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from roadwork.config import to_settings
from roadwork.core.devices import choose_device, devices_here
from roadwork.core.errors import RoadworkError
from roadwork.data.augmentation.build import build_train_augmentation
from roadwork.data.dataset import ImageStore, UnreadableLedger
from roadwork.data.deployment import REACH_KM, find_deployment, unreachable_targets
from roadwork.data.images import UnreadableImage
from roadwork.data.mixed_datasets import SOURCE, find_mixture
from roadwork.data.open import Dataset, open_dataset
from roadwork.data.samplers.build import build_gps_sampler
from roadwork.data.samplers.clusters import COVERAGE_TARGET, cluster_deployment
from roadwork.data.samplers.summary import Repeats
from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.split_verification import compare_with_deployment
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.models.build import build_model
from roadwork.models.classifier import family_of
from roadwork.models.head import freeze_backbone
from roadwork.preflight.shortcuts import measure_shortcuts
from roadwork.settings import SPLIT_NAMES, Settings

OK, WARNING, BLOCKER = "ok", "warning", "blocker"
_DECODED = 32
_GIB = 1024**3


@dataclass
class _Rows:
    """The part of a dataset that the GPS sampler reads."""

    gps: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.gps)


def plan_repeats(settings: Settings, table: SampleTable, split_names: np.ndarray) -> Repeats:
    """How often a run with GPS sampling will draw each row, without reading an image.

    Args:
        settings: the run's settings.
        table: the dataset's N rows.
        split_names: (N,) the split of each row.

    Raises:
        DataError: the sampler has no rows to draw.
        ConfigError: a sampler setting is invalid.
    """
    rows = np.flatnonzero(split_names == "train")
    points, _ = find_deployment(settings.data, table, split_names)
    mixture = find_mixture(settings.data, table, rows)
    measured = _Rows(table.gps[rows], table.labels[rows])
    sampler = build_gps_sampler(settings.data.gps_sampling, measured, points, mixture)
    return Repeats.of(sampler, len(rows), settings.training.epochs)


@dataclass(frozen=True)
class Check:
    """One check: its status (`ok`, `warning` or `blocker`), what was found, and what to do."""

    name: str
    status: str
    found: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class Preflight:
    """Runs the checks of a configuration one after the other; skips checks whose input is missing."""

    def __init__(self, cfg: DictConfig) -> None:
        self.settings: Settings = to_settings(cfg)
        self.dataset: Dataset | None = None
        self.splits: Splits | None = None
        self.seconds_per_image = 0.0

    def run(self) -> Iterator[Check]:
        """Yields each check as soon as it is done."""
        yield from self._guarded("environment", self._environment)
        yield from self._guarded("dataset", self._dataset)
        if self.dataset is not None:
            yield from self._guarded("images", self._images)
            yield from self._guarded("GPS", self._gps)
            yield from self._guarded("splits", self._splits)
        if self.splits is not None:
            yield from self._guarded("shortcuts", self._shortcuts)
        if self.splits is not None and self.settings.data.gps_sampling.enabled:
            sampling = list(self._guarded("GPS sampling", self._sampling))
            yield from sampling
            has_failed = any(check.status == BLOCKER for check in sampling)
            if not self.settings.data.balance and not has_failed:  # else it would fail for the same reason
                yield from self._guarded("oversampling", self._repeats)
        yield from self._guarded("augmentation", self._augmentation)
        yield from self._guarded("callbacks", self._callbacks)
        yield from self._guarded("model, disk, time", self._cost)

    def _guarded(self, name: str, check: Callable[[], Check | tuple[Check, ...]]) -> Iterator[Check]:
        try:
            found = check()
        except RoadworkError as error:
            yield Check(name, BLOCKER, str(error))
            return
        yield from found if isinstance(found, tuple) else (found,)

    def _environment(self) -> tuple[Check, ...]:
        python = Check(
            "Python",
            OK if sys.version_info >= (3, 11) else BLOCKER,
            platform.python_version(),
            "install Python 3.11 or newer",
        )
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            device = f"{torch.cuda.get_device_name()}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
            training, n_found = self.settings.training, torch.cuda.device_count()
            n_used = min(n_found, devices_here(training.devices, training.accelerator))
            if n_found > 1:
                device += f"; training uses {n_used} of {n_found} GPUs (training.devices={training.devices})"
        else:
            device = f"CPU with {torch.get_num_threads()} threads"
        return python, Check("torch", OK, f"{torch.__version__} on {device}")

    def _dataset(self) -> Check:
        data = self.settings.data
        self.dataset = open_dataset(self.settings)
        table = self.dataset.table
        positives = int(table.labels.sum())
        mixed = "".join(
            f" Extra data: {int((table.slices[SOURCE] == extra.dataset_name).sum()):,} rows from {extra.dataset_name}."
            for extra in data.extra
        )
        return Check(
            f"dataset mode {data.mode}",
            OK,
            f"{' '.join(table.notes[:1])} {positives:,} Roadwork, {len(table) - positives:,} None.{mixed}",
        )

    def _images(self) -> Check:
        dataset = self._opened()
        table, source = dataset.table, dataset.source
        ledger = UnreadableLedger(table, self.settings.data.max_unreadable)
        store = ImageStore(source, self.settings.data.img_size)
        ledger.add(store.find_unreadable(np.arange(len(table))))
        sample = np.unique(np.linspace(0, len(table) - 1, _DECODED).astype(int))
        started = time.monotonic()
        decoded = [store.get(int(row)) for row in sample]
        self.seconds_per_image = (time.monotonic() - started) / len(sample)
        ledger.add([image for image in decoded if isinstance(image, UnreadableImage)])
        found = (
            f"{len(table) - len(ledger.reasons):,} of {len(table):,} have a valid header and end; "
            f"{len(sample)} were decoded completely, at {1 / self.seconds_per_image:.0f} images/s per core"
        )
        return Check("images decode", WARNING if ledger.reasons else OK, found, "repair or remove the unreadable ones")

    def _gps(self) -> Check:
        table = self._opened().table
        minimum = self.settings.data.gps_sampling.min_coverage
        notes = " ".join(table.notes[1:])
        found = f"{table.gps_coverage:.1%} of {len(table):,} rows have a position. {notes}".strip()
        fix = (
            f"less than {minimum:.0%} of the rows have GPS; rows without GPS are drawn with weight "
            f"{self.settings.data.gps_sampling.missing_weight:g} wherever they were taken, "
            "so GPS sampling affects only a part of training"
        )
        return Check("GPS", OK if table.gps_coverage >= minimum else WARNING, found, fix)

    def _splits(self) -> Check:
        dataset = self._opened()
        splits, report = dataset.splits, dataset.report
        self.splits = splits  # only set if they can be used
        ratios = "/".join(f"{self.settings.data.splits[name]:.2f}" for name in SPLIT_NAMES)
        found = f"{splits.source}, configured {ratios}: {report}"
        return Check("splits", WARNING if report.warnings else OK, found, " ".join(report.warnings))

    def _shortcuts(self) -> Check:
        dataset = self._opened()
        shortcuts = measure_shortcuts(dataset, dataset.split_names)
        return Check("shortcuts", WARNING if shortcuts.is_warning else OK, str(shortcuts), shortcuts.advice)

    def _sampling(self) -> tuple[Check, ...]:
        table = self._opened().table
        sampling = self.settings.data.gps_sampling
        names = self.splits.names_by_row(table) if self.splits else np.array([])
        points, where = find_deployment(self.settings.data, table, names)
        brackets = parse_brackets(sampling.weight_brackets)
        edge = float(brackets.edges_km[1])
        clusters = cluster_deployment(points, sampling.n_clusters, edge, sampling.random_seed)
        found = (
            f"{len(points):,} deployment points from {where}; with {len(clusters.sizes)} clusters, "
            f"{clusters.covered_share:.0%} of them are within {edge:g} km of a cluster centre"
        )
        needed = f"data.gps_sampling.n_clusters={clusters.needed or 'auto'}"
        train_gps, test_gps = (table.gps[(names == split) & table.has_gps] for split in ("train", "val_test"))
        unreachable = unreachable_targets(points, train_gps)
        coverage = Check(
            "deployment coverage",
            WARNING if unreachable else OK,
            unreachable or f"every deployment point has a training image within {REACH_KM:g} km",
        )
        checks = (
            Check(
                "clusters against brackets",
                OK if clusters.covered_share >= COVERAGE_TARGET else WARNING,
                found,
                f"set {needed}",
            ),
            coverage,
        )
        if not len(train_gps) or not len(test_gps):
            return checks
        resemblance = compare_with_deployment(train_gps, test_gps, points)
        return (*checks, Check("val_test resembles the deployment", OK, str(resemblance)))

    def _repeats(self) -> Check:
        table = self._opened().table
        names = self.splits.names_by_row(table) if self.splits else np.array([])
        repeats = plan_repeats(self.settings, table, names)
        return Check("oversampling", WARNING if repeats.are_too_many else OK, str(repeats), repeats.advice)

    def _augmentation(self) -> Check:
        data = self.settings.data
        module = build_train_augmentation(data.augmentation.train, data.img_size)
        return Check("augmentation", OK, f"{data.augmentation.train.mode}: {type(module).__name__}")

    def _callbacks(self) -> Check:
        training = self.settings.training
        ema = f"EMA with decay {training.ema_decay}" if training.use_ema else "no EMA (training.use_ema is false)"
        return Check("callbacks", OK, f"MCC, {ema}; adapter {training.adapter}. The dry run checks their calls.")

    def _cost(self) -> tuple[Check, ...]:
        model = build_model(self.settings.model, self.settings.data.img_size)
        parameters = sum(p.numel() for p in model.parameters())
        # Three checkpoints (last, previous, best), each with weights, EMA and AdamW's two moments, 4 bytes per value.
        needed = 3 * 4 * 4 * parameters / _GIB
        output = Path(self.settings.output_dir)
        existing = next(p for p in (output, *output.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free / _GIB
        disk = Check(
            "disk",
            OK if free > needed else BLOCKER,
            f"{free:.1f} GiB free; checkpoints need up to {needed:.2f} GiB",
            "free some space, or set output_dir to a folder on another disk",
        )
        checks = (Check("model", OK, f"{family_of(model.config)} with {parameters / 1e6:.1f} M parameters"), disk)
        if self.dataset is None:
            return checks
        return (*checks, Check("time", OK, self._estimate(model, len(self.dataset.table))))

    def _estimate(self, model: torch.nn.Module, n_rows: int) -> str:
        """The estimated training time, from forward and backward passes on a random batch."""
        data, training = self.settings.data, self.settings.training
        device = choose_device()
        size = 8 if data.dataloader.batch_size == "auto" else min(data.dataloader.fixed_batch_size, 8)
        images = torch.rand(size, 3, data.img_size, data.img_size, device=device)
        model = model.to(device).train()
        if training.freeze_backbone:
            freeze_backbone(model)
        seconds = []
        for _ in range(4):
            started = time.monotonic()
            model(pixel_values=images).logits.sum().backward()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            seconds.append(time.monotonic() - started)
        per_image = min(seconds) / size  # the first one warms up
        if training.freeze_backbone and data.augmentation.train.mode == "none":
            n_seen = n_rows * (data.splits["train"] + data.splits["val_select"])
            return (
                f"about {n_seen * per_image / 60:.0f} min to compute the features of {n_seen:,.0f} images once "
                f"({1 / per_image:.0f} images/s), without reading them; the head then trains in seconds"
            )
        n_train = n_rows * data.splits["train"]
        minutes = training.epochs * n_train * per_image / 60
        return (
            f"about {minutes:.0f} min of training steps for {training.epochs} epochs "
            f"of {n_train:,.0f} images ({1 / per_image:.0f} images/s), without reading them"
        )

    def _opened(self) -> Dataset:
        if self.dataset is None:
            raise RoadworkError("The dataset could not be read.")
        return self.dataset
