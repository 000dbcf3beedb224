"""Times the second epoch of a training run, from the resized copy or from RAM."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

from joblib import cpu_count
from omegaconf import DictConfig

from benchmarks.step_cases import StepClock
from roadwork.config import to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.prepared.plan import plan_copy
from roadwork.data.prepared.write import lock_copy, write_copy
from roadwork.data.source import read_dataset
from roadwork.demo import generate_demo_data
from roadwork.training.trainers.factory import prepare_trainer

PHOTO_SIZE = (640, 480)


def demo_with_copy(cfg: DictConfig, folder: Path, images: int) -> DictConfig:
    """Generates demo scenes and their resized copy in `folder`. Returns `cfg` set to use them."""
    generate_demo_data(folder / "photos", images=images, size=PHOTO_SIZE, seed=0)
    cfg = copy.deepcopy(cfg)
    cfg.data.root = str(folder / "photos")
    cfg.data.prepared.folder = str(folder / "copy")
    cfg.data.splitting.near_duplicates = False  # runs once, before the first epoch
    data = to_settings(cfg).data
    table, source = read_dataset(data)
    with lock_copy(data) as manifest:
        write_copy(plan_copy(data, manifest, table, source), cpu_count())
    return cfg


def second_epoch(cfg: DictConfig, cache: str) -> tuple[int, float]:
    """Trains two epochs. Returns the images per epoch, and the seconds of the second epoch up to its last step.

    Args:
        cfg: the configuration; `data.prepared.use` and `training.epochs` are overridden.
        cache: the value of `data.cache`: `none` reads the copy in each epoch, `auto` keeps the images in RAM.
    """
    cfg = copy.deepcopy(cfg)
    cfg.data.cache, cfg.data.prepared.use, cfg.training.epochs = cache, "require", 2
    with TemporaryDirectory() as folder:
        cfg.output_dir = folder
        datamodule = NATIXDataModule(cfg)
        trainer = prepare_trainer(datamodule)
        clock = StepClock(warmup=0, epoch=1)
        trainer.callbacks.append(clock)
        trainer.fit(datamodule)
    return len(datamodule.datasets["train"]), clock.seconds
