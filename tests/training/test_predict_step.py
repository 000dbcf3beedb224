"""`Trainer.predict` and `Trainer.test` run the network on a data module's plain images."""

import lightning as L
import torch
from torch.utils.data import DataLoader

from roadwork.data.dataset import collate


def plain_loader(data):
    return DataLoader(data.datasets["val_select"], batch_size=8, collate_fn=collate)


def lightning_trainer():
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     enable_model_summary=False)  # fmt: skip


def test_predict_returns_logits_and_rows(fits, monkeypatch):
    module, data = fits.trainer().module, fits.datamodule
    monkeypatch.setattr(type(data), "predict_dataloader", plain_loader)
    outputs = lightning_trainer().predict(module, datamodule=data)
    rows = torch.cat([output["index"] for output in outputs])
    assert rows.tolist() == data.datasets["val_select"].rows.tolist()
    logits = torch.cat([output["logits"] for output in outputs])
    assert logits.shape == (len(rows), 2)
    batch = next(iter(plain_loader(data)))
    images = data.normalise(batch["image"].float() / 255)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(images), logits[: len(images)])


def test_test_step_matches_validation_step(fits, monkeypatch):
    module, data = fits.trainer().module, fits.datamodule
    monkeypatch.setattr(type(data), "test_dataloader", plain_loader)
    losses = []
    monkeypatch.setattr(
        module, "on_test_batch_end", lambda outputs, *_: losses.append(float(outputs["loss"])), raising=False
    )
    lightning_trainer().test(module, datamodule=data, verbose=False)
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
