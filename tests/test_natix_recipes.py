"""The NATIX recipes train networks that the consumer can load, and the estimates in their headers add up."""

import re
from pathlib import Path

import pytest

from roadwork.config import load_config, to_settings
from roadwork.data.augmentation.streetvision import SIZE
from roadwork.export.consumer import STREETVISION_MODEL_TYPES
from roadwork.models.cost import build_without_weights, forward_flops, training_bytes
from roadwork.models.head import freeze_backbone, train_head_alone

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "experiment"
RECIPES = ("natix_cpu", "natix_24gb", "natix_h100")
PHOTOS = 8549
COMMANDS = (
    "split --config FILE",
    "prepare --config FILE",
    "train --config FILE",
    "evaluate RUN",
    "calibrate RUN --prior 0.5",
    "export RUN --out model",
    "verify-export model --consumer streetvision",
    "evaluate RUN --profile streetvision-2026-01",
)


def header(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line.removeprefix("#") for line in lines if line.startswith("#"))


def figure(name, pattern):
    """The one number of the header that matches the pattern."""
    (found,) = re.findall(pattern, header(name))
    return float(found.replace(",", ""))


def settings_of(name):
    """The recipe, with a network that needs no hub."""
    return to_settings(load_config(CONFIGS / f"{name}.yaml", ["model.pretrained=false"]))


def test_there_is_no_other_recipe():
    assert {path.stem for path in CONFIGS.glob("natix_*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_for_the_consumer_and_its_challenges(name):
    settings = to_settings(load_config(CONFIGS / f"{name}.yaml"))
    assert settings.model.pretrained
    assert settings.model.config["model_type"] in STREETVISION_MODEL_TYPES
    # Another pooling needs a class of roadwork, which the consumer cannot load.
    assert settings.model.pooling == "auto"
    assert settings.data.img_size == SIZE
    assert settings.data.augmentation.train.mode == "streetvision"
    assert (settings.data.mode, settings.data.row_filter) == ("huggingface", "streetvision")
    assert settings.experiment == name


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_stand_in_order(name):
    written = re.findall(r"^ +roadwork (.*)$", header(name), re.MULTILINE)
    names = {"FILE": f"configs/experiment/{name}.yaml", "RUN": f"outputs/{name}/latest"}
    expected = [" ".join(names.get(word, word) for word in command.split()) for command in COMMANDS]
    assert [" ".join(line.split()) for line in written] == expected


@pytest.mark.parametrize("name", [*RECIPES[:2], pytest.param(RECIPES[2], marks=pytest.mark.slow)])
def test_the_estimate_adds_up(name):
    settings = settings_of(name)
    data, training = settings.data, settings.training
    network = build_without_weights(settings.model, data.img_size)
    network.train()
    if training.freeze_backbone:
        freeze_backbone(network)
        train_head_alone(network)
    assert network.config.model_type in STREETVISION_MODEL_TYPES
    flops = forward_flops(network, data.img_size)
    assert figure(name, r"network +([\d,]+) parameters") == network.num_parameters()
    assert figure(name, r"parameters, ([\d.]+) GFLOPs") == pytest.approx(flops / 1e9, abs=0.005)

    train, select = (round(data.splits[split] * PHOTOS) for split in ("train", "val_select"))
    assert figure(name, r"([\d,]+) rows of train") == train
    assert figure(name, r"([\d,]+) of val_select") == select
    # The backward pass of a trained layer costs twice the forward pass.
    passes = 1 if training.freeze_backbone else 3
    assert figure(name, r"(\d+) forward pass") == passes
    assert figure(name, r"(\d+) epochs") == training.epochs
    if training.probe_epochs:
        assert figure(name, r"(\d+) of the head") == training.probe_epochs
    shown = train * (passes * training.epochs + training.probe_epochs) + select * training.epochs
    work = shown * flops / 1e12
    assert figure(name, r"([\d,]+) TFLOPs") == pytest.approx(work, abs=0.5)
    rate = figure(name, r"at ([\d.]+) TFLOP/s")
    assert figure(name, r"([\d.]+) minutes at") == pytest.approx(work / rate / 60, rel=0.02)

    copying = PHOTOS / figure(name, r"the ([\d.]+) photos/s") / figure(name, r"on (\d+) cores, at") / 60
    assert figure(name, r"copy +([\d.]+) minutes") == pytest.approx(copying, abs=0.05)
    step = training_bytes(network, data.img_size, data.dataloader.batch_size, use_ema=training.use_ema)
    assert figure(name, r"memory +([\d.]+) GiB") == pytest.approx(step / 2**30, abs=0.05)
    pictures = (train + select) * 3 * data.img_size**2
    assert figure(name, r"([\d.]+) GiB of RAM for the images") == pytest.approx(pictures / 2**30, abs=0.05)


@pytest.mark.parametrize(
    ("name", "share", "of", "rate"), [("natix_24gb", 0.30, "71", 21.3), ("natix_h100", 0.30, "756", 226.8)]
)
def test_the_assumed_rate_is_the_stated_share(name, share, of, rate):
    assert f"{share:.0%}".replace("%", " %") + f" of the {of}" in header(name)
    assert figure(name, r"at ([\d.]+) TFLOP/s") == rate == pytest.approx(share * float(of))


def test_the_cpus_rate_is_its_cores():
    assert figure("natix_cpu", r"at ([\d.]+) TFLOP/s") * 1000 == pytest.approx(
        figure("natix_cpu", r"assumed: (\d+) cores") * figure("natix_cpu", r"cores of (\d+) GFLOP/s")
    )


def test_the_decoding_rate_is_the_benchmarks():
    page = (CONFIGS.parents[1] / "benchmarks" / "README.md").read_text()
    (measured,) = re.findall(r"cold, evaluation, one core \| \*\*roadwork\*\* \| ([\d.]+)", page)
    assert {figure(name, r"the ([\d.]+) photos/s") for name in RECIPES} == {float(measured)}


def test_the_guide_says_the_same_times():
    guide = (CONFIGS.parents[1] / "docs" / "natix.md").read_text()
    for name in RECIPES:
        assert re.search(rf"`{name}` \|.*\| {figure(name, r'([0-9.]+) minutes at'):g} minutes", guide), name
