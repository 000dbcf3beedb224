"""MCC matches scikit-learn's, in a real Trainer and in a loop without one."""

import subprocess
import sys

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import confusion_matrix, matthews_corrcoef
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers.modeling_outputs import ImageClassifierOutput

from roadwork.core.errors import DataError, WiringError
from roadwork.metrics.classification import confusion_from, mcc_from_confusion
from roadwork.training.callbacks.mcc_callback import MCCCallback

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


@given(binary)
def test_counts_and_mcc_are_scikit_learns(rows):
    labels, predictions = map(np.array, zip(*rows, strict=True))
    counts = confusion_from(torch.tensor(predictions), torch.tensor(labels))
    assert counts.dtype == torch.int64
    assert counts.tolist() == confusion_matrix(labels, predictions, labels=[0, 1]).tolist()
    with np.errstate(all="ignore"):
        expected = matthews_corrcoef(labels, predictions) if len({*labels, *predictions}) > 1 else 0.0
    assert mcc_from_confusion(counts) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(0, 10**9), min_size=4, max_size=4))
def test_counts_of_a_billion_rows_do_not_overflow(cells):
    tn, fp, fn, tp = cells
    labels, predictions = [0, 0, 1, 1], [0, 1, 0, 1]
    expected = (
        matthews_corrcoef(labels, predictions, sample_weight=np.array(cells, dtype=np.float64)) if any(cells) else 0
    )
    if min(tn + fp, fn + tp, tn + fn, fp + tp) == 0:
        expected = 0.0
    assert mcc_from_confusion(torch.tensor(cells).view(2, 2)) == pytest.approx(expected, abs=1e-9)


def logits_of(predictions):
    return F.one_hot(torch.as_tensor(predictions), 2).float()


def test_own_loop_returns_metrics_and_resets():
    callback = MCCCallback()
    assert callback.best_mcc == -1.0
    labels, predictions = torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([0, 1, 0, 0, 1, 1])
    callback.on_batch_end(logits_of(predictions[:4]), labels[:4])
    callback.on_batch_end(logits_of(predictions[4:]), labels[4:])
    expected = matthews_corrcoef(labels, predictions)
    assert callback.on_epoch_end(0) == pytest.approx({"mcc": expected, "best_mcc": expected})
    callback.on_batch_end(logits_of(1 - labels), labels)
    assert callback.on_epoch_end(1) == pytest.approx({"mcc": -1.0, "best_mcc": expected})
    assert callback.best_mcc == pytest.approx(expected)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"logits": x}, lambda x: ImageClassifierOutput(logits=x)])
@pytest.mark.parametrize("soft", [False, True])
def test_accepted_forms_of_outputs_and_labels(wrap, soft):
    callback = MCCCallback()
    labels = torch.tensor([0, 1, 1, 0])
    given_labels = logits_of(labels) * 0.6 + 0.2 if soft else labels
    callback.on_batch_end(wrap(logits_of(labels)), given_labels)
    assert callback.on_epoch_end(0)["mcc"] == pytest.approx(1.0)


def test_empty_epoch_warns_and_returns_an_empty_dict():
    callback = MCCCallback()
    with pytest.warns(RuntimeWarning, match="epoch 3") as caught:
        assert callback.on_epoch_end(3) == {}
    assert caught[0].filename == __file__
    assert callback.best_mcc == -1.0


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (torch.zeros(4), torch.zeros(4).long(), r"logits \(B, 2\)"),
        (torch.zeros(4, 3), torch.zeros(4).long(), r"\(4, 3\)"),
        (torch.zeros(4, 2), torch.zeros(3).long(), r"\(3,\) for 4 rows"),
        (torch.zeros(4, 2), torch.zeros(4), "float32"),
        (torch.zeros(4, 2), torch.zeros(4, 3), r"\(4, 3\)"),
        (torch.zeros(4, 2), [0, 1, 0, 1], "a list"),
    ],
)
def test_wrong_shapes_are_errors(outputs, labels, message):
    with pytest.raises(DataError, match=message):
        MCCCallback().on_batch_end(outputs, labels)


def test_label_outside_the_classes_is_an_error_at_epoch_end():
    callback = MCCCallback()
    callback.on_batch_end(torch.zeros(3, 2), torch.tensor([0, 2, -1]))
    with pytest.raises(DataError, match="2 of 3 labels"):
        callback.on_epoch_end(0)


class Detector(L.LightningModule):
    """A linear detector that also records its decisions, for the reference."""

    def __init__(self, soft=False, returned=("loss", "logits", "labels")):
        super().__init__()
        self.model = torch.nn.Linear(3, 2)
        self.soft, self.returned = soft, returned
        self.seen = {"train": [], "val": [], "sanity": []}

    def _step(self, stage, batch):
        images, labels = batch
        logits = self.model(images)
        self.seen[stage].append((labels, logits.argmax(1)))
        out = {"loss": F.cross_entropy(logits, labels), "logits": logits.detach(), "labels": labels}
        if stage == "train" and self.soft:
            out["labels"] = logits_of(labels) * 0.6 + 0.2
        return {key: out[key] for key in self.returned}

    def training_step(self, batch, batch_idx):
        return self._step("train", batch)

    def validation_step(self, batch, batch_idx):
        return self._step("sanity" if self.trainer.sanity_checking else "val", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def mcc_of(self, stage, batches):
        labels, predictions = zip(*self.seen[stage][batches], strict=True)
        return matthews_corrcoef(torch.cat(labels), torch.cat(predictions))


def loader(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, generator=generator)
    labels = (images[:, 0] + torch.randn(rows, generator=generator) > 0).long()
    return DataLoader(TensorDataset(images, labels), batch_size=10)


def trainer_with(*callbacks, **settings):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(accelerator="cpu", max_epochs=2, callbacks=list(callbacks), **quiet | settings)


pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    # Lightning's own call, deprecated by torch.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


@pytest.mark.parametrize("soft", [False, True])
def test_trainer_logs_the_mcc_of_scikit_learn(soft):
    torch.manual_seed(0)
    module, callback = Detector(soft), MCCCallback()
    trainer = trainer_with(callback)
    trainer.fit(module, loader(40, 1), loader(30, 2))
    metrics = trainer.callback_metrics
    train_name, absent = ("train/mcc_mixed", "train/mcc") if soft else ("train/mcc", "train/mcc_mixed")
    assert absent not in metrics
    assert float(metrics[train_name]) == pytest.approx(module.mcc_of("train", slice(4, 8)), abs=1e-6)
    first, second = module.mcc_of("val", slice(3)), module.mcc_of("val", slice(3, 6))
    assert float(metrics["val_select/mcc"]) == pytest.approx(second, abs=1e-6)
    assert len(module.seen["sanity"]) == 2
    labels, predictions = (torch.cat(rows) for rows in zip(*module.seen["val"][3:6], strict=True))
    assert callback.confusion.tolist() == confusion_matrix(labels, predictions, labels=[0, 1]).tolist()
    assert callback.best_mcc == pytest.approx(max(first, second), abs=1e-9)


class WorseEachStep(Detector):
    """Right before training and in the sanity check, wrong from the first step on."""

    def _step(self, stage, batch):
        out = super()._step(stage, batch)
        out["logits"] = logits_of(batch[1] if stage == "sanity" else 1 - batch[1])
        return out


def test_sanity_check_does_not_set_the_best():
    callback = MCCCallback()
    trainer_with(callback).fit(WorseEachStep(), loader(20, 1), loader(20, 2))
    assert callback.best_mcc == pytest.approx(-1.0)


def test_checkpoint_monitors_mcc_and_keeps_best_mcc(tmp_path):
    torch.manual_seed(0)
    callback, checkpoint = MCCCallback(), ModelCheckpoint(tmp_path, monitor="val_select/mcc", mode="max")
    trainer_with(callback, checkpoint, enable_checkpointing=True).fit(Detector(), loader(40, 1), loader(30, 2))
    assert float(checkpoint.best_model_score) == pytest.approx(callback.best_mcc, abs=1e-6)
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    fresh = MCCCallback()
    fresh.load_state_dict(saved["callbacks"]["MCCCallback"])
    assert fresh.best_mcc == pytest.approx(callback.best_mcc)


def test_validate_outside_fit_keeps_best_mcc():
    callback = MCCCallback()
    trainer = trainer_with(callback)
    result = trainer.validate(Detector(), loader(30, 2), verbose=False)
    assert "val_select/mcc" in result[0]
    assert callback.best_mcc == -1.0


def test_step_without_logits_is_an_error():
    trainer = trainer_with(MCCCallback(), num_sanity_val_steps=0)
    with pytest.raises(WiringError, match=r"training_step returned \['loss'\]"):
        trainer.fit(Detector(returned=("loss",)), loader(20, 1), loader(20, 2))


TWO_PROCESSES = """
import warnings, torch, lightning.pytorch as L
from torch.utils.data import DataLoader, TensorDataset
from roadwork.training.callbacks.mcc_callback import MCCCallback

LABELS = torch.tensor([0, 1, 1, 0, 1, 1, 0, 0])
PREDICTIONS = torch.tensor([0, 1, 1, 0, 0, 0, 1, 0])

class Replay(L.LightningModule):
    def validation_step(self, batch, batch_idx):
        labels, predictions = batch
        return {"logits": torch.nn.functional.one_hot(predictions, 2).float(), "labels": labels}

def main():
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*DistributedSampler")
    torch.set_num_threads(1)
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, callbacks=[MCCCallback()])
    loader = DataLoader(TensorDataset(LABELS, PREDICTIONS), batch_size=2)
    result = trainer.validate(Replay(), loader, verbose=False)
    print("MCC", result[0]["val_select/mcc"])

if __name__ == "__main__":
    main()
"""


def test_counts_are_summed_over_ranks(monkeypatch):
    callback = MCCCallback()
    trainer = trainer_with(callback)
    labels, predictions = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 1])
    other_rank = MCCCallback()
    other_rank.on_batch_end(logits_of(predictions), labels)

    def reduce(tensor, reduce_op):
        assert reduce_op == "sum"
        return tensor + other_rank._own_loop._counts if tensor.shape == (5,) else tensor

    monkeypatch.setattr(trainer.strategy, "reduce", reduce)
    module = Detector()
    result = trainer.validate(module, loader(30, 2), verbose=False)
    (own_labels, own_predictions) = (torch.cat(rows) for rows in zip(*module.seen["val"], strict=True))
    expected = matthews_corrcoef(torch.cat([own_labels, labels]), torch.cat([own_predictions, predictions]))
    assert result[0]["val_select/mcc"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_two_processes_count_together(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = matthews_corrcoef([0, 1, 1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 1, 0])
    assert float(done.stdout.split("MCC")[1]) == pytest.approx(expected, abs=1e-6)
