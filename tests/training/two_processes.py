"""Fits of tiny networks that two processes make together, and one alone: for tests of several devices."""

import json
import os
import signal
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from conftest import CHECKOUT, TINY_MODEL
from detector_world import TINY_NETWORKS
from lightning.pytorch.callbacks import Callback

from roadwork.config import load_config
from roadwork.core.errors import RunStoppedError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.build import build_model
from roadwork.training.trainers import base_trainer
from roadwork.training.trainers import base_trainer as lightning_trainer

# What each fit adds to the configuration, and the rows of val_select it is judged by.
CASES = {
    "resnet": (17, "model.name=resnet"),
    "vit": (17, "training.accumulate=2"),
    "one row": (1, "training.loss=focal"),
    "lora": (6, "training.adapter=lora"),
    "adalora": (9, "training.adapter=adalora"),
}
# In the second epoch's first step: two batches of it are to come.
STOPPED, STOP_AT = "vit", 2


class FewToValidate(NATIXDataModule):
    """The data module, with so many rows of val_select."""

    n_validated = 0
    dtype = torch.float32

    def _readable_rows(self, split):
        rows = super()._readable_rows(split)
        return rows[: self.n_validated] if split == "val_select" else rows[:28] if split == "train" else rows

    def normalise(self, images):
        return super().normalise(images.to(self.dtype))


class Signal(Callback):
    """Sends this process SIGTERM in a step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == STOP_AT and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(case, folder, data_root, n_processes, *callbacks, resume_from=None, precision="64-true"):
    """In double precision sums in another order differ by 1e-16, which AdamW cannot blow up until it shows."""
    n_validated, override = CASES[case]
    cfg = load_config(
        CHECKOUT / "configs" / "config.yaml",
        [
            *TINY_MODEL, f"data.root={data_root}", f"output_dir={folder}", f"experiment={case.replace(' ', '-')}",
            "training.epochs=2", "data.augmentation.train.mode=none", "training.accelerator=cpu", "model.name=vit",
            f"training.devices={n_processes}", f"data.dataloader.batch_size={8 // n_processes}", override,
        ],
    )  # fmt: skip
    cfg.model.config = TINY_NETWORKS[cfg.model.name]
    torch.manual_seed(0)
    trainer = base_trainer.BaseTrainer(cfg, build_model(base_trainer.to_settings(cfg).model, 32))
    trainer.callbacks += callbacks
    data = FewToValidate(cfg)
    data.n_validated = n_validated
    data.dtype = torch.float64 if precision == "64-true" else torch.float32
    with patch.object(lightning_trainer, "_precision", lambda wanted: precision):
        trainer.fit(data, resume_from)
    return trainer


def train_together(rank, port, folder, data_root, cases, is_stopped):
    """One of two processes, as torchrun or Lightning would start it; each writes what its network came to."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    folder = Path(folder)
    for case in cases:
        torch.save(result_of(fit(case, folder, data_root, 2)), folder / f"{case} {rank}.pt")
    if is_stopped:
        _stop_and_resume(rank, folder, data_root)
    dist.destroy_process_group()


def _stop_and_resume(rank, folder, data_root):
    as_users_have_it = {"precision": "32-true"}
    torch.save(result_of(fit(STOPPED, folder / "whole", data_root, 2, **as_users_have_it)), folder / f"whole {rank}.pt")
    try:
        fit(STOPPED, folder / "stopped", data_root, 2, *([Signal()] if rank == 1 else []), **as_users_have_it)
    except RunStoppedError as error:
        run = (folder / "stopped" / STOPPED / "latest").resolve()
        resumed = result_of(fit(STOPPED, folder / "stopped", data_root, 2, resume_from=run, **as_users_have_it))
        torch.save(resumed | {"exit code": error.exit_code}, folder / f"resumed {rank}.pt")


def result_of(trainer):
    """What a fit came to, by name: weights, averages and what they are judged by."""
    ema, adapter = trainer.ema_callback, trainer.callbacks[-1]
    return {
        "weights": trainer.module.state_dict(),
        "average": ema.shadow | ema.shadow_buffers,
        "ranks": adapter.state_dict().get("rank_pattern"),
        "metrics": [json.loads(line) for line in (trainer.run_folder / "metrics.jsonl").read_text().splitlines()],
        "best": torch.load(trainer.run_folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"],
        "run": str(trainer.run_folder),
    }
