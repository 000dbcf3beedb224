"""Speed of our training step, compared with a bare PyTorch loop and Hugging Face's Trainer.

    python -m benchmarks.step [--model resnet|vit-s|all] [--options] [--repeat 5] [--steps 20] [--json FILE]

All contenders train the same network from the same weights on the same uint8 images in RAM, with the demo's
augmentation, loss, clipping and AdamW. Each runs in a new process, because heap state affects later runs. Ours is
`BaseTrainer.fit` with EMA, MCC, logging and callbacks. The bare loop is the upper bound. Trainer has its default
callbacks and no workers. Only steps are timed: no setup, no validation, no checkpoint.

For the ResNet, the second epoch of a real run on demo photos is timed too, from the resized copy and from RAM. It is
compared with a bare loop over the same number of images. `--options` compares each step option with the default.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.paired import Contender, Line, compare, show, take_turns
from benchmarks.step_cases import Done, train_bare, train_by_trainer, train_ours
from benchmarks.step_epochs import demo_with_copy, second_epoch
from benchmarks.step_work import NETWORKS, Recipe, Work, load_work, ready_network
from roadwork.cli.app import quiet_lightning
from roadwork.models.cost import kept_bytes
from roadwork.training.devices import checkpoint_gradients

OURS = "roadwork"
BARE = "bare loop"
TRAINER = "Hugging Face Trainer"
BATCHES = {"resnet": 64, "vit-s": 16}
WARMUP = 3
OPTIONS = {
    "resnet": [
        "training.compile=true",
        "training.channels_last=false",
        "training.fused_optimizer=false",
        "training.precision=bf16-mixed",
    ],
    "vit-s": [
        "training.compile=true",
        "training.channels_last=false",
        "training.fused_optimizer=false",
        "training.precision=bf16-mixed",
        "model.attention=eager",
        "training.gradient_checkpointing=true",
    ],
}


def compare_steps(network: str, work: Work, repeats: int) -> list[Line]:
    """Measures the training step of ours, the bare loop and Trainer."""
    trains = {OURS: train_ours, BARE: train_bare, TRAINER: train_by_trainer}
    contenders = [alone(name, partial(timed, train, work)) for name, train in trains.items()]
    task = f"step, {NETWORKS[network][0]}, {work.batch} x {work.settings.data.img_size} px"
    return compare(task, OURS, take_turns(contenders, repeats, warmups=0))


def timed(train: Callable[[Work], Done], work: Work) -> tuple[int, float]:
    """Trains once. Returns the number of images and the seconds."""
    done = train(work)
    return done.images, done.seconds


def alone(contender: str, work: Callable[[], tuple[int, float]]) -> Contender:
    """Returns a contender that runs in a new process each time."""
    return Contender(contender, partial(_in_a_process, work))


def _in_a_process(work: Callable[[], tuple[int, float]]) -> tuple[int, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=be_quiet) as pool:
        return pool.submit(work).result()


def be_quiet() -> None:
    """Silences logs and warnings, so that only the table is printed."""
    quiet_lightning()
    logging.getLogger("roadwork").setLevel(logging.ERROR)  # it warns about the small demo splits
    warnings.filterwarnings("ignore")


def compare_epochs(work: Work, repeats: int, images: int) -> list[Line]:
    """Measures the second epoch of a real run from the resized copy and from RAM, against the bare loop."""
    with TemporaryDirectory() as folder:
        cfg = demo_with_copy(work.cfg, Path(folder), images)
        n_train = second_epoch(cfg, "auto")[0]
        limit = Work(work.cfg, max(1, n_train // work.batch), WARMUP)
        bare = alone(BARE, partial(timed, train_bare, limit))
        lines = []
        for cache, name in (("none", "read from the copy"), ("auto", "held in RAM")):
            ours = alone(OURS, partial(second_epoch, cfg, cache))
            lines += compare(f"second epoch, {name}", OURS, take_turns([ours, bare], repeats, warmups=0))
    return lines


def compare_options(network: str, work: Work, repeats: int) -> list[Line]:
    """Measures our step with each option, against our step with the defaults."""
    default = "the defaults"
    works = {default: work}
    for option in OPTIONS[network]:
        size = f"data.img_size={work.settings.data.img_size}"
        works[option] = load_work(
            network, work.steps, work.warmup, size, f"data.dataloader.batch_size={work.batch}", option
        )
    contenders = [alone(name, partial(timed, train_ours, one)) for name, one in works.items()]
    speeds = take_turns(contenders, repeats, warmups=0)
    lines = compare(f"options of {NETWORKS[network][0]}", default, speeds)
    return [lines[0], *(replace(line, note=effect(line, works, speeds)) for line in lines[1:])]


def effect(line: Line, works: dict[str, Work], speeds: dict[str, list[float]]) -> str:
    """Formats an option's speed relative to the default, and its activation memory if that differs."""
    default = next(iter(works))
    ratio = median(mine / theirs for mine, theirs in zip(speeds[line.name], speeds[default], strict=True))
    kept, before = kept_mib(works[line.name]), kept_mib(works[default])
    memory = f", activation memory {kept:.0f} of {before:.0f} MiB" if kept != before else ""
    return f"{ratio:.2f}x the default{memory}"


def kept_mib(work: Work) -> float:
    """Returns the memory kept from the forward to the backward pass, without the weights, in MiB."""
    network = ready_network(work)
    if work.settings.training.gradient_checkpointing:
        checkpoint_gradients(network)
    recipe = Recipe(work, network)
    pixels, labels = work.images[: work.batch].to(recipe.device), work.labels[: work.batch].to(recipe.device)
    return kept_bytes(lambda: recipe.loss(pixels, labels, 0), network.parameters()) / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*NETWORKS, "all"], default="all", help="network (default: all)")
    parser.add_argument("--batch", type=int, help="batch size (default: 64 for the ResNet, 16 for ViT-S)")
    parser.add_argument("--img-size", type=int, default=96, help="image size in pixels (default: 96)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: 20)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--epoch-images", type=int, default=1200, help="demo photos of the epoch; 0 skips it")
    parser.add_argument("--options", action="store_true", help="compare the options of our step instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.repeat < 1 or options.epoch_images < 0:
        parser.error("--steps and --repeat must be at least 1, --epoch-images at least 0")
    lines: list[Line] = []
    for network in NETWORKS if options.model == "all" else [options.model]:
        batch = options.batch or BATCHES[network]
        size = f"data.img_size={options.img_size}"
        work = load_work(network, options.steps, WARMUP, size, f"data.dataloader.batch_size={batch}")
        if options.options:
            lines += compare_options(network, work, options.repeat)
            continue
        lines += compare_steps(network, work, options.repeat)
        if network == "resnet" and options.epoch_images:
            lines += compare_epochs(work, options.repeat, options.epoch_images)
    show(lines, "Training step", options.json, steps=options.steps, repeats=options.repeat)


if __name__ == "__main__":
    be_quiet()
    main()
