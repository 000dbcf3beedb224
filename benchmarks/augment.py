"""Time per image of each augmentation operation, compared with kornia's equivalent.

    python -m benchmarks.augment [--mode latest_2025|heavy_kornia|all] [--sizes 224 640] [--batch 32] [--repeat 5]
                                 [--json FILE]

Each operation runs on the expected number of images per batch that draw it. Indexing the images and writing them back
is timed too. The share of an operation is its time, weighted by its probability, over the sum for all operations. The
full augmentation is timed with its checks and random draws. Its peak memory is given in multiples of the float32 input
batch. A ratio is our speed over kornia's in the same repetition.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.profiler import profile  # torch.profiler's loads the compiler

from benchmarks.augment_cases import MODES, Case, Change
from benchmarks.paired import Contender, Line, compare, show, take_turns

OURS = "roadwork"


def _run(change: Change, images: Tensor, count: int) -> int:
    change(images)
    return count


def measure(case: Case, images: Tensor, repeats: int) -> list[Line]:
    """Measures a case and its peers, in changed images per second."""
    count = case.rows(len(images))
    # One copy per contender: some operations work in place.
    contenders = [Contender(OURS, partial(_run, case.ours, images.clone(), count))]
    contenders += [Contender(name, partial(_run, peer, images.clone(), count)) for name, peer in case.peers.items()]
    with torch.no_grad():
        return compare(case.name, OURS, take_turns(contenders, repeats))


def weighted_shares(cases: Sequence[Case], lines: Sequence[Line]) -> dict[str, float]:
    """Returns the share of each operation in the expected time per image. The shares sum to 1."""
    speeds = {line.task: line.images_per_s for line in lines if line.name == OURS}
    times = {case.name: case.share / speeds[case.name] for case in cases if case.share is not None}
    return {name: time / sum(times.values()) for name, time in times.items()}


def peak_batches(change: Change, images: Tensor) -> float:
    """Returns the peak memory that ``change`` allocates, as a multiple of the size of ``images``."""
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        change(images)
        return (torch.cuda.max_memory_allocated() - before) / images.nbytes
    with profile(profile_memory=True) as profiler:
        change(images)
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / images.nbytes


def measure_mode(mode: str, size: int, batch: int, repeats: int) -> tuple[list[Line], dict[str, float]]:
    """Measures one mode at one image size. Returns the table rows and the time share of each operation."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    images = (torch.randint(256, (batch, 3, size, size)).float() / 255).to(device)
    cases = MODES[mode](size)
    lines = [line for case in cases for line in measure(case, images, repeats)]
    shares = weighted_shares(cases, lines)
    peak = peak_batches(cases[-1].ours, images)
    noted = []
    for line in lines:
        note = f"{1000 / line.images_per_s:.3g} ms per image"
        if line.name == OURS and line.task in shares:
            note += f", {shares[line.task]:.1%} of the mode"
        elif line.name == OURS and line.task == "total":
            note += f", peak memory {peak:.1f} batches"
        noted.append(replace(line, task=f"{mode} {size}: {line.task}", note=note))
    return noted, shares


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augment", description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all", help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 640], help="image sizes in pixels (224 640)")
    parser.add_argument("--batch", type=int, default=32, help="batch size (default: 32)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(arguments)
    if min(options.batch, options.repeat, *options.sizes) < 1:
        parser.error("--batch, --repeat and --sizes must be at least 1")
    lines, shares = [], {}
    for size in options.sizes:
        for mode in MODES if options.mode == "all" else [options.mode]:
            measured, shares[f"{mode} {size}"] = measure_mode(mode, size, options.batch, options.repeat)
            lines += measured
    show(lines, "Augmentation", options.json, batch=options.batch, repeats=options.repeat, shares=shares)


if __name__ == "__main__":
    main()
