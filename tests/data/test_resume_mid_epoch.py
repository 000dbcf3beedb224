"""A run resumed inside an epoch continues with the same rows as an uninterrupted run."""

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset

from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import ResumableLoader
from roadwork.data.samplers.build import UniformSampler
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler

EPOCHS = 3
STOP = "step {}.ckpt"


class Rows(Callback):
    """Records the rows of every training batch, its epoch, and the sum of its images if it has any."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        images = batch["image"].double().sum().item() if "image" in batch else 0.0
        self.seen.append((trainer.current_epoch, batch_idx, batch["index"].tolist(), images))


class Stop(Callback):
    """Interrupts the run before a step, like a lost machine."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class Linear(L.LightningModule):
    """A tiny, fast module that reads the number of steps before Lightning has restored its counts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.net(batch["index"].float()[:, None]).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val", self.net(batch["index"].float()[:, None]).mean())

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def fit(datamodule, folder, *callbacks, resume_from=None, every=1, **options):
    rows = Rows()
    checkpoints = ModelCheckpoint(
        folder, filename="step {step}", every_n_train_steps=every, save_top_k=-1, auto_insert_metric_name=False
    )
    trainer = L.Trainer(
        max_epochs=EPOCHS, callbacks=[rows, checkpoints, *callbacks], default_root_dir=folder, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        **{"num_sanity_val_steps": 0} | options,
    )  # fmt: skip
    try:
        trainer.fit(Linear(), datamodule=datamodule, ckpt_path=resume_from, weights_only=True)
    except SystemExit:  # Lightning raises it after KeyboardInterrupt
        assert callbacks
    return rows.seen


class Positions(Dataset):
    """A dataset that returns row numbers."""

    def __init__(self, n_rows):
        rng = np.random.default_rng(0)
        self.gps = np.stack([rng.uniform(36, 56, n_rows), rng.uniform(-9, 20, n_rows)], axis=1)

    def __len__(self):
        return len(self.gps)

    def __getitem__(self, row):
        return {"index": row}


class SmallData(L.LightningDataModule):
    """`ResumableLoader` and samplers without images; an epoch has 10 batches of 4 and one of 2."""

    def __init__(self, sampler="weighted", workers=0, rank=0, world_size=1):
        super().__init__()
        self.dataset = Positions(42 * world_size)
        self.workers = workers
        if sampler == "weighted":
            cities = np.array([[52.5, 13.4], [48.9, 2.3]])
            self.sampler = GPSWeightedSampler(self.dataset, cities, 2, rank=rank, world_size=world_size)
        else:
            self.sampler = UniformSampler(self.dataset, world_size, rank)

    def train_dataloader(self):
        loader = ResumableLoader(
            self.dataset, 4, sampler=self.sampler, num_workers=self.workers, persistent_workers=self.workers > 0
        )
        loader.trainer = self.trainer
        return loader

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.dataset, 4)


@pytest.mark.parametrize(
    ("sampler", "step"), [*(("weighted", step) for step in (1, 5, 10, 11, 12, 17, 22)), ("uniform", 5), ("uniform", 17)]
)
def test_after_any_step_the_rest_is_the_same(tmp_path, sampler, step):
    whole = fit(SmallData(sampler), tmp_path / "whole")
    assert len(whole) == EPOCHS * 11
    assert [len(rows) for _, _, rows, _ in whole[:11]] == [4] * 10 + [2]
    before = fit(SmallData(sampler), tmp_path / "run", Stop(step))
    assert before == whole[:step]
    assert fit(SmallData(sampler), tmp_path / "run", resume_from=tmp_path / "run" / STOP.format(step)) == whole[step:]


def test_repeated_interruptions(tmp_path):
    whole = fit(SmallData(), tmp_path / "whole")
    seen, stops = fit(SmallData(), tmp_path / "run", Stop(3)), [3, 4, 9, 14, 25]
    for step, following in zip(stops, [*stops[1:], 99], strict=True):
        checkpoint = tmp_path / "run" / STOP.format(step)
        seen += fit(SmallData(), tmp_path / "run", Stop(following), resume_from=checkpoint)
    assert seen == whole


def test_steps_after_the_checkpoint_are_repeated(tmp_path):
    whole = fit(SmallData(), tmp_path / "whole")
    assert fit(SmallData(), tmp_path / "run", Stop(19), every=5) == whole[:19]
    checkpoint = tmp_path / "run" / STOP.format(15)
    assert fit(SmallData(), tmp_path / "run", resume_from=checkpoint, every=5) == whole[15:]


@pytest.mark.parametrize("step", [5, 11, 14])
def test_resume_with_prefetching_workers(tmp_path, step):
    whole = fit(SmallData(workers=1), tmp_path / "whole")
    fit(SmallData(workers=1), tmp_path / "run", Stop(step))
    checkpoint = tmp_path / "run" / STOP.format(step)
    assert fit(SmallData(workers=1), tmp_path / "run", resume_from=checkpoint) == whole[step:]


@pytest.mark.parametrize("step", [5, 6, 8, 16])
def test_with_validation_inside_the_epoch_and_a_sanity_check(tmp_path, step):
    options = {"val_check_interval": 5, "num_sanity_val_steps": 1}
    whole = fit(SmallData(), tmp_path / "whole", **options)
    fit(SmallData(), tmp_path / "run", Stop(step), **options)
    checkpoint = tmp_path / "run" / STOP.format(step)
    assert fit(SmallData(), tmp_path / "run", resume_from=checkpoint, **options) == whole[step:]


def test_each_rank_resumes_in_its_own_part(tmp_path):
    for rank in range(2):
        folder = tmp_path / str(rank)
        whole = fit(SmallData(rank=rank, world_size=2), folder / "whole")
        fit(SmallData(rank=rank, world_size=2), folder, Stop(7))
        data = SmallData(rank=rank, world_size=2)
        assert fit(data, folder, resume_from=folder / STOP.format(7)) == whole[7:]


def test_loader_outside_of_training_begins_at_the_beginning(tmp_path):
    data = SmallData()
    fit(data, tmp_path, Stop(5))
    assert sum(len(batch["index"]) for batch in data.train_dataloader()) == 42


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_data_module_itself(tiny_config, tmp_path, enabled):
    """Rows and augmented images after a resume inside an epoch equal those of an uninterrupted run."""

    def data(*overrides):
        return NATIXDataModule(tiny_config(f"data.gps_sampling.enabled={enabled}", *overrides))

    whole = fit(data(), tmp_path / "whole")
    assert len({images for *_, images in whole}) == len(whole)
    fit(data(), tmp_path / "run", Stop(7))
    torch.rand(5)  # earlier random numbers must not matter
    rest = fit(data(), tmp_path / "run", resume_from=tmp_path / "run" / STOP.format(7))
    assert 7 % (len(whole) // EPOCHS)  # inside an epoch
    assert rest == whole[7:]


def test_number_of_workers_changes_nothing(tiny_config, tmp_path):
    def seen(workers):
        data = NATIXDataModule(tiny_config("data.cache=none", f"data.dataloader.num_workers={workers}"))
        torch.manual_seed(workers)
        return fit(data, tmp_path / str(workers))

    assert seen(0) == seen(1) == seen(2)


def test_another_seed_gives_other_augmentations(tiny_config, tmp_path):
    first, second = (
        fit(NATIXDataModule(tiny_config(f"training.seed={seed}")), tmp_path / str(seed)) for seed in (0, 1)
    )
    assert [rows for _, _, rows, _ in first] == [rows for _, _, rows, _ in second]
    assert not {images for *_, images in first} & {images for *_, images in second}
