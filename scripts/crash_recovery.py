"""Crash-recovery tests: interrupts training runs, resumes them, and compares them with an uninterrupted run.

    python scripts/crash_recovery.py [--moments 50] [--seed 0] [--json FILE] [--only KIND]

Each run uses the real command line on tiny demo scenes. It trains a vision transformer with dropout, a worker process,
EMA and `training.deterministic=true`, and saves a checkpoint after nearly every step. Weights, EMA, optimizer, best
checkpoint, metrics.jsonl and the best checkpoint's predictions must be bit-identical, and all checkpoints readable.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context, set_start_method
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from roadwork.config import load_yaml
from roadwork.core.progress import new_progress
from roadwork.demo import generate_demo_data
from roadwork.evaluation.evaluate import build_run_datamodule, load_best_model, predict_splits
from roadwork.runs.run import LAST
from roadwork.training import checkpoints as files
from roadwork.training.checkpoints import SafeCheckpointIO, why_damaged
from roadwork.training.module import RoadworkClassifier

CHECKOUT = Path(__file__).resolve().parents[1]
VIT = (
    *("model=vit_base", "model.pretrained=false", "model.config.hidden_size=16", "model.config.num_hidden_layers=2"),
    *("model.config.num_attention_heads=2", "model.config.intermediate_size=32", "model.config.patch_size=8"),
    "model.config.hidden_dropout_prob=0.2",
)
JOB = (
    *VIT,
    *("data.img_size=32", "data.dataloader.batch_size=16", "data.dataloader.num_workers=1", "data.cache=none"),
    *("training.epochs=3", "training.deterministic=true", "training.checkpoint_minutes=0.00001"),
)
LORA = ("training.adapter=lora", "training.adapter_rank=2")
STEPS, VALIDATIONS = 27, 9
WRITABLE_BYTES = 40_000


@dataclass(frozen=True)
class Moment:
    """When to interrupt a run with `options` as overrides: at the `number`th event, or after `number` seconds."""

    kind: str
    number: float
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of an interrupted run: its exit code, the step it resumed after, and all faults."""

    moment: Moment
    exit_code: int
    resumed_at: int | None
    faults: tuple[str, ...]


# --- interruptions --------------------------------------------------------------------------------------------------


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(number: float, interrupt: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that calls `interrupt` on its `number`th call."""
    calls = iter(range(1, sys.maxsize))
    return lambda: interrupt() if next(calls) == number else None


def before(owner: Any, name: str, act: Callable[[], None]) -> None:
    """Patches a function to call `act` before each call."""
    original = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        act()
        return original(*args, **kwargs)

    setattr(owner, name, replaced)


def after(owner: Any, name: str, act: Callable[[], None]) -> None:
    """Patches a function to call `act` after each call."""
    original = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        act()
        return result

    setattr(owner, name, replaced)


def half_written(number: float) -> None:
    """Truncates the `number`th checkpoint to half its size, then kills the process."""
    original, calls = torch.save, iter(range(1, sys.maxsize))

    def save(content: Any, path: Path) -> None:
        original(content, path)
        if next(calls) == number:
            os.truncate(path, path.stat().st_size // 2)
            kill_now()

    files.torch.save = save  # type: ignore[attr-defined]


def full_disk(number: float) -> None:
    """Simulates a full disk from the `number`th save on, by limiting the file size."""

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITABLE_BYTES, WRITABLE_BYTES))

    before(torch, "save", nth(number, fill))


def kill_in(seconds: float) -> None:
    timer = threading.Timer(seconds, kill_now)
    timer.daemon = True  # must not keep a finished run alive
    timer.start()


def kill_a_worker() -> None:
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type]  # it has started
        return


INTERRUPTIONS: dict[str, Callable[[float], None]] = {
    "any time": kill_in,
    "in a step": lambda n: after(RoadworkClassifier, "training_step", nth(n, kill_now)),
    "before a save": lambda n: before(SafeCheckpointIO, "save_checkpoint", nth(n, kill_now)),
    "inside a save": half_written,
    "between its renames": lambda n: before(os, "fsync", nth(n, kill_now)),
    "after a save": lambda n: after(SafeCheckpointIO, "save_checkpoint", nth(n, kill_now)),
    "in validation": lambda n: before(RoadworkClassifier, "validation_step", nth(n, kill_now)),
    "a worker": lambda n: before(RoadworkClassifier, "training_step", nth(n, kill_a_worker)),
    "SIGTERM": lambda n: before(
        RoadworkClassifier, "training_step", nth(n, lambda: os.kill(os.getpid(), signal.SIGTERM))
    ),
    "SIGINT": lambda n: before(
        RoadworkClassifier, "training_step", nth(n, lambda: os.kill(os.getpid(), signal.SIGINT))
    ),
    "full disk": full_disk,
}
EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130, "full disk": 1, "a worker": 1}


def train(arguments: Sequence[str], moment: Moment | None, log: Path) -> None:
    """Runs `roadwork train` in this process, interrupted at a moment."""
    set_start_method("fork", force=True)  # the start method of a process started from a shell
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from roadwork.cli import main  # noqa: PLC0415
    from roadwork.preflight import dry_run  # noqa: PLC0415

    dry_run.run_dry.__globals__  # noqa: B018 -- load it before anything is patched
    if moment is not None:
        from roadwork.training.trainers.base_trainer import BaseTrainer  # noqa: PLC0415

        # Interrupts only the training, not the wiring check before it.
        before(BaseTrainer, "fit", lambda: INTERRUPTIONS[moment.kind](moment.number))
    main(["train", "--config", str(CHECKOUT / "configs" / "config.yaml"), *arguments])


def run(arguments: Sequence[str], moment: Moment | None, log: Path) -> int:
    """Trains in a new process. Returns its exit code, or the negative number of the signal that ended it."""
    process = get_context("forkserver").Process(target=train, args=(arguments, moment, log))
    process.start()
    process.join()
    return int(process.exitcode or 0)


# --- comparison -----------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Returns the SHA-256 of nested tensors and values."""
    sha = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                sha.update(str(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        else:
            sha.update(repr(part).encode())

    add(value)
    return sha.hexdigest()


def result_hashes(folder: Path) -> dict[str, str]:
    """Returns the hashes of a finished run's results."""
    last, best = (
        torch.load(folder / "checkpoints" / name, map_location="cpu", weights_only=True) for name in (LAST, "best.ckpt")
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    cfg = load_yaml(folder / "config.yaml")
    datamodule = build_run_datamodule(cfg, folder)
    frame = predict_splits(datamodule, load_best_model(folder, datamodule.settings), ("val_select", "val_calib"))
    return {
        "weights": digest(last["raw_state_dict"]),
        "average": digest(last["state_dict"]),
        "optimizer": digest([last["optimizer_states"], last["lr_schedulers"], last["global_step"]]),
        "best": digest([best["state_dict"], best["epoch"]]),
        "metrics": digest([{key: value for key, value in line.items() if key != "seconds"} for line in lines]),
        "predictions": digest(frame[["logit_none", "logit_roadwork"]].to_numpy().tolist()),
    }


def interrupt_and_resume(moment: Moment, folder: Path, job: Sequence[str], expected: dict[str, str]) -> Outcome:
    """Interrupts a run, resumes it to its end, and compares its results with the expected hashes."""
    arguments = [*job, *moment.options, f"output_dir={folder}", "experiment=interrupted"]
    log = folder / "log.txt"
    exit_code = run(arguments, moment, log)
    expected_code = EXIT_CODES.get(moment.kind, -signal.SIGKILL)
    finished_first = exit_code == 0 and moment.kind == "any time"
    faults = [] if exit_code == expected_code or finished_first else [f"exit code {exit_code}, not {expected_code}"]
    checkpoints = sorted((folder / "interrupted" / "latest" / "checkpoints").glob("*.ckpt"))
    faults += [f"{path.name} is unreadable: {why}" for path in checkpoints if (why := why_damaged(path))]
    resumed_at = None
    if any(path.name in {LAST, files.PREVIOUS} for path in checkpoints):
        newest = files.find_newest(checkpoints[0].parent)
        resumed_at = torch.load(newest, map_location="cpu", weights_only=True)["global_step"]
    if not finished_first:
        again = run([*arguments, *(["--resume"] if resumed_at is not None else [])], None, log)
        if again != 0:
            return Outcome(moment, exit_code, resumed_at, (*faults, f"exit code {again} after the resume"))
    hashes = result_hashes((folder / "interrupted" / "latest").resolve())
    faults += [f"{part} differs" for part, value in hashes.items() if value != expected[part]]
    return Outcome(moment, exit_code, resumed_at, tuple(faults))


def draw_moments(count: int, seed: int, seconds: float) -> Iterator[Moment]:
    """Yields `count` kills of all kinds, then signals and full disks, and some interruptions with an adapter."""
    rng = np.random.default_rng(seed)
    kills = [kind for kind in INTERRUPTIONS if kind not in {"SIGTERM", "SIGINT", "full disk"}]

    def at(kind: str) -> float:
        if kind == "any time":
            return float(rng.uniform(0, seconds))
        return int(
            rng.integers(1, {"in validation": VALIDATIONS, "in a step": STEPS, "a worker": STEPS - 2}.get(kind, 25))
        )

    # Half of the kills happen at a random time, the others at specific points in the code.
    for number in range(count):
        kind = "any time" if number % 2 == 0 else kills[1 + number // 2 % (len(kills) - 1)]
        yield Moment(kind, at(kind))
    for kind, n in (("SIGTERM", 6), ("SIGINT", 3), ("full disk", 5)):
        for _ in range(n):
            yield Moment(kind, at(kind))
    for kind in ("any time", "in a step", "inside a save", "in validation", "SIGTERM", "full disk"):
        yield Moment(kind, at(kind), LORA)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50, help="kills, besides 20 other interruptions (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    parser.add_argument("--only", choices=INTERRUPTIONS, help="only this kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes to this file")
    options = parser.parse_args(arguments)
    logging.getLogger("roadwork").setLevel(logging.ERROR)  # the small splits cause warnings
    with TemporaryDirectory(prefix="roadwork-crash-recovery-") as name:
        outcomes = measure(Path(name), options.moments, options.seed, options.only)
    show(outcomes)
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    sys.exit(1 if any(outcome.faults for outcome in outcomes) else 0)


def prepare(folder: Path) -> list[str]:
    """Generates tiny demo scenes; returns the overrides of a run on them."""
    os.environ["ROADWORK_CACHE"] = str(folder / "cache")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    generate_demo_data(folder / "scenes", images=240, size=(160, 120), seed=0, processes=1)
    get_context("forkserver").set_forkserver_preload(["roadwork.preflight.dry_run", "roadwork.evaluation.evaluate"])
    return [f"data.root={folder / 'scenes'}", *JOB]


def train_uninterrupted(job: Sequence[str], folder: Path, *more: str) -> tuple[dict[str, str], float]:
    """Returns the hashes of an uninterrupted run's results, and its training time in seconds."""
    code = run([*job, *more, f"output_dir={folder}", "experiment=uninterrupted"], None, folder / "log.txt")
    if code != 0:
        raise SystemExit(f"The uninterrupted run ended with {code}:\n{(folder / 'log.txt').read_text()[-3000:]}")
    run_folder = (folder / "uninterrupted" / "latest").resolve()
    last_line = (run_folder / "metrics.jsonl").read_text().splitlines()[-1]
    return result_hashes(run_folder), float(json.loads(last_line)["seconds"])


def measure(folder: Path, count: int, seed: int, only: str | None) -> list[Outcome]:
    job = prepare(folder)
    expected, seconds = {}, 0.0
    for options in ((), LORA):
        where = folder / f"uninterrupted{len(expected)}"
        where.mkdir()
        expected[options], seconds = train_uninterrupted(job, where, *options)
    moments = [m for m in draw_moments(count, seed, seconds) if only in (None, m.kind)]
    outcomes = []
    with new_progress() as progress:
        task = progress.add_task("Interrupting and resuming", total=len(moments))
        for number, moment in enumerate(moments):
            where = folder / str(number)
            where.mkdir()
            outcomes.append(interrupt_and_resume(moment, where, job, expected[moment.options]))
            shutil.rmtree(where)
            progress.advance(task)
    return outcomes


def show(outcomes: Sequence[Outcome]) -> None:
    table = Table("interrupted", "adapter", "times", "exit codes", "resumed after step", "bit-identical")
    keys = dict.fromkeys((outcome.moment.kind, bool(outcome.moment.options)) for outcome in outcomes)
    for kind, is_adapter in keys:
        mine = [o for o in outcomes if (o.moment.kind, bool(o.moment.options)) == (kind, is_adapter)]
        codes = ", ".join(f"{code} ({n})" for code, n in Counter(o.exit_code for o in mine).items())
        steps = ", ".join("start" if o.resumed_at is None else str(o.resumed_at) for o in mine)
        good = sum(not o.faults for o in mine)
        table.add_row(kind, "lora" if is_adapter else "", str(len(mine)), codes, steps, f"{good} of {len(mine)}")
    console = Console()
    console.print(table)
    for outcome in outcomes:
        if outcome.faults:
            console.print(f"{outcome.moment}: {'; '.join(outcome.faults)}")


if __name__ == "__main__":
    main()
