"""The contenders of `benchmarks.step` do the same work, and its table says what was timed."""

import json
import os

import pytest
import torch

from benchmarks import step, step_cases, step_epochs
from benchmarks.paired import Contender
from benchmarks.step_cases import StepClock, train_bare, train_by_trainer, train_ours
from benchmarks.step_work import load_work
from roadwork.preflight.recorder import copy_weights

TINY = ("data.img_size=32", "data.dataloader.batch_size=4")
TINY_RUN = ("--batch", "4", "--img-size", "32", "--steps", "1", "--repeat", "1")
VIT = [f"model.config.{key}={value}" for key, value in (("num_hidden_layers", 2), ("hidden_size", 24))]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """A new process for each contender is seconds of imports; one test has them."""
    monkeypatch.setattr(step, "alone", Contender)


@pytest.mark.parametrize(("network", "overrides"), [("resnet", ()), ("vit-s", VIT)])
def test_all_contenders_learn_the_same_weights(network, overrides):
    """Same order, augmentation, loss, clipping, AdamW and schedule: the weights agree after five steps."""
    work = load_work(network, 3, 2, *TINY, *overrides)
    untrained = copy_weights(work.network())
    ours, bare, trainer = (train(work) for train in (train_ours, train_bare, train_by_trainer))
    assert [done.images for done in (ours, bare, trainer)] == [12, 12, 12]
    assert all(done.seconds > 0 for done in (ours, bare, trainer))
    weights = ours.network.state_dict()
    assert any((weights[name] - value).abs().max() > 1e-3 for name, value in untrained.items())
    torch.testing.assert_close(bare.network.state_dict(), weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainer.network.state_dict(), weights, rtol=1e-2, atol=1e-3)  # it sums norms otherwise
    torch.testing.assert_close(copy_weights(work.network()), untrained, rtol=0, atol=0)


def test_the_clock_counts_the_steps_after_the_warmup(monkeypatch):
    class Loop:
        current_epoch = 1
        num_training_batches = 5

    clock = StepClock(warmup=2, epoch=1)
    moments = iter(range(100))
    monkeypatch.setattr(step_cases, "now", lambda: float(next(moments)))
    for number in range(5):
        moments = iter([10.0 * number])
        clock.on_train_batch_end(Loop, None, None, None, number)
    assert clock.seconds == 40 - 10  # from the end of the second step to that of the fifth
    Loop.current_epoch = 2
    clock.on_train_batch_end(Loop, None, None, None, 4)
    assert clock.seconds == 30


@pytest.mark.slow
def test_the_table_has_steps_and_epochs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step_epochs, "PHOTO_SIZE", (160, 120))
    file = tmp_path / "step.json"
    step.main([*TINY_RUN, "--model", "resnet", "--epoch-images", "120", "--json", str(file)])
    written = json.loads(file.read_text())
    assert [(line["task"].partition(",")[0], line["name"]) for line in written["lines"]] == [
        *(("step", name) for name in (step.OURS, step.BARE, step.TRAINER)),
        *(("second epoch", name) for name in (step.OURS, step.BARE) * 2),
    ]
    assert all((line["ours_ratio"] is None) == (line["name"] == step.OURS) for line in written["lines"])
    assert "Hugging Face" in capsys.readouterr().out


def _process():
    return os.getpid(), 0.0


@pytest.mark.slow
def test_each_contender_has_a_new_process_each_time(monkeypatch):
    monkeypatch.undo()
    contender = step.alone("someone", _process)
    assert len({os.getpid(), contender.run()[0], contender.run()[0]}) == 3


def test_options_are_compared_with_the_defaults(tmp_path, monkeypatch):
    options = ["model.attention=eager", "training.gradient_checkpointing=true"]
    monkeypatch.setitem(step.OPTIONS, "vit-s", options)
    monkeypatch.setitem(step.NETWORKS, "vit-s", (step.NETWORKS["vit-s"][0], [*step.NETWORKS["vit-s"][1], *VIT]))
    file = tmp_path / "step.json"
    step.main([*TINY_RUN, "--model", "vit-s", "--options", "--json", str(file)])
    lines = json.loads(file.read_text())["lines"]
    assert [line["name"] for line in lines] == ["the defaults", *options]
    assert lines[0]["note"] == ""
    assert lines[2]["note"].startswith(f"{lines[2]['images_per_s'] / lines[0]['images_per_s']:.2f}x the default, keeps")


def test_wrong_usage_is_refused(capsys):
    with pytest.raises(SystemExit):
        step.main(["--steps", "0"])
    assert "at least 1" in capsys.readouterr().err
