"""Kills training runs at many moments, resumes them, and compares what they end with to an uninterrupted run's.

    python scripts/kill_table.py [--moments 50] [--seed 0] [--json FILE] [--only KIND]

Each run is the real command line on tiny demo scenes: a vision transformer with dropout, worker processes, averaged
weights, a save after nearly every step, `training.deterministic=true`. Weights, average, optimizer, best checkpoint,
metrics.jsonl and the predictions of the best checkpoint must come out bit-equal, and no checkpoint may be unreadable.
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
STEPS, SAVES, VALIDATIONS = 27, 33, 9
WRITABLE_BYTES = 40_000


@dataclass(frozen=True)
class Moment:
    """When a run is struck: at the `number`th event of a kind, or after `number` seconds; `options` are overrides."""

    kind: str
    number: float
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of it: the exit code, how far it was, and what was not as it should be."""

    moment: Moment
    exit_code: int
    resumed_at: int | None
    faults: tuple[str, ...]


# --- what strikes ---------------------------------------------------------------------------------------------------


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(number: float, strike: Callable[[], None]) -> Callable[[], None]:
    """Calls `strike` when it is called for the `number`th time."""
    calls = iter(range(1, sys.maxsize))
    return lambda: strike() if next(calls) == number else None


def before(owner: Any, name: str, act: Callable[[], None]) -> None:
    """Lets `act` be called before each call of a function."""
    original = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        act()
        return original(*args, **kwargs)

    setattr(owner, name, replaced)


def after(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        act()
        return result

    setattr(owner, name, replaced)


def half_written(number: float) -> None:
    """The `number`th checkpoint is cut off in its middle."""
    original, calls = torch.save, iter(range(1, sys.maxsize))

    def save(content: Any, path: Path) -> None:
        original(content, path)
        if next(calls) == number:
            os.truncate(path, path.stat().st_size // 2)
            kill_now()

    files.torch.save = save  # type: ignore[attr-defined]


def full_disk(number: float) -> None:
    """From the `number`th save on the system refuses to write more than a few bytes into a file."""

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITABLE_BYTES, WRITABLE_BYTES))

    before(torch, "save", nth(number, fill))


def kill_in(seconds: float) -> None:
    timer = threading.Timer(seconds, kill_now)
    timer.daemon = True  # a training that ends before is not waited for
    timer.start()


def kill_a_worker() -> None:
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type]  # it has started
        return


STRIKES: dict[str, Callable[[float], None]] = {
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
HOW_MANY = {"any time": SAVES, "in a step": STEPS, "in validation": VALIDATIONS}


def train(arguments: Sequence[str], strike: Moment | None, log: Path) -> None:
    """`roadwork train` in this process, struck at its moment."""
    set_start_method("fork", force=True)  # for its own workers, as in any process that a shell has started
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from roadwork.cli import main  # noqa: PLC0415
    from roadwork.preflight import dry_run  # noqa: PLC0415

    dry_run.run_dry.__globals__  # noqa: B018 -- loaded before anything is replaced
    if strike is not None:
        from roadwork.training.trainers.base_trainer import BaseTrainer  # noqa: PLC0415

        # From the training itself on: not during the proof of the wires that goes before.
        before(BaseTrainer, "fit", lambda: STRIKES[strike.kind](strike.number))
    main(["train", "--config", str(CHECKOUT / "configs" / "config.yaml"), *arguments])


def run(arguments: Sequence[str], strike: Moment | None, log: Path) -> int:
    """The exit code of a training in a process of its own; minus the signal's number where one ended it."""
    process = get_context("forkserver").Process(target=train, args=(arguments, strike, log))
    process.start()
    process.join()
    return int(process.exitcode or 0)


# --- what is compared -----------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """A hash of nested tensors and values, to the bit."""
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


def ending(folder: Path) -> dict[str, str]:
    """What a finished run ends with, each part as a hash."""
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


def strike_and_resume(moment: Moment, folder: Path, job: Sequence[str], whole: dict[str, str]) -> Outcome:
    """Strikes a run, resumes it until it ends, and says what differs from the uninterrupted one."""
    arguments = [*job, *moment.options, f"output_dir={folder}", "experiment=struck"]
    log = folder / "log.txt"
    exit_code = run(arguments, moment, log)
    expected = EXIT_CODES.get(moment.kind, -signal.SIGKILL)
    finished_first = exit_code == 0 and moment.kind == "any time"
    faults = [] if exit_code == expected or finished_first else [f"exit code {exit_code}, not {expected}"]
    checkpoints = sorted((folder / "struck" / "latest" / "checkpoints").glob("*.ckpt"))
    faults += [f"{path.name} is unreadable: {why}" for path in checkpoints if (why := why_damaged(path))]
    resumed_at = None
    if any(path.name in {LAST, files.PREVIOUS} for path in checkpoints):
        newest = files.find_newest(checkpoints[0].parent)
        resumed_at = torch.load(newest, map_location="cpu", weights_only=True)["global_step"]
    if not finished_first:
        again = run([*arguments, *(["--resume"] if resumed_at is not None else [])], None, log)
        if again != 0:
            return Outcome(moment, exit_code, resumed_at, (*faults, f"resumed: exit code {again}"))
    ended = ending((folder / "struck" / "latest").resolve())
    faults += [f"{part} differs" for part, value in ended.items() if value != whole[part]]
    return Outcome(moment, exit_code, resumed_at, tuple(faults))


def draw_moments(count: int, seed: int, seconds: float) -> Iterator[Moment]:
    """`count` kills spread over all kinds, and a few of every other blow; with an adapter some of each."""
    rng = np.random.default_rng(seed)
    kills = [kind for kind in STRIKES if kind not in {"SIGTERM", "SIGINT", "full disk"}]

    def at(kind: str) -> float:
        if kind == "any time":
            return float(rng.uniform(0, seconds))
        return int(
            rng.integers(1, {"in validation": VALIDATIONS, "in a step": STEPS, "a worker": STEPS - 2}.get(kind, 25))
        )

    # As many at any time as at all the chosen places together.
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
    parser.add_argument("--moments", type=int, default=50, help="kills (default 50); some other blows are added")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--only", choices=STRIKES, help="this kind alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes here too")
    options = parser.parse_args(arguments)
    logging.getLogger("roadwork").setLevel(logging.ERROR)  # the scenes' splits are small, and no matter here
    with TemporaryDirectory(prefix="roadwork-kill-") as name:
        outcomes = measure(Path(name), options.moments, options.seed, options.only)
    show(outcomes)
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    sys.exit(1 if any(outcome.faults for outcome in outcomes) else 0)


def prepare(folder: Path) -> list[str]:
    """Tiny demo scenes, and the overrides of the job on them."""
    os.environ["ROADWORK_CACHE"] = str(folder / "cache")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    generate_demo_data(folder / "scenes", images=240, size=(160, 120), seed=0, processes=1)
    get_context("forkserver").set_forkserver_preload(["roadwork.preflight.dry_run", "roadwork.evaluation.evaluate"])
    return [f"data.root={folder / 'scenes'}", *JOB]


def train_whole(job: Sequence[str], folder: Path, *more: str) -> tuple[dict[str, str], float]:
    """What the uninterrupted run ends with, and the seconds of its training, from its first step on."""
    code = run([*job, *more, f"output_dir={folder}", "experiment=whole"], None, folder / "log.txt")
    if code != 0:
        raise SystemExit(f"The uninterrupted run ended with {code}:\n{(folder / 'log.txt').read_text()[-3000:]}")
    run_folder = (folder / "whole" / "latest").resolve()
    last_line = (run_folder / "metrics.jsonl").read_text().splitlines()[-1]
    return ending(run_folder), float(json.loads(last_line)["seconds"])


def measure(folder: Path, count: int, seed: int, only: str | None) -> list[Outcome]:
    job = prepare(folder)
    wholes, seconds = {}, 0.0
    for options in ((), LORA):
        where = folder / f"whole{len(wholes)}"
        where.mkdir()
        wholes[options], seconds = train_whole(job, where, *options)
    moments = [m for m in draw_moments(count, seed, seconds) if only in (None, m.kind)]
    outcomes = []
    with new_progress() as progress:
        task = progress.add_task("Striking and resuming", total=len(moments))
        for number, moment in enumerate(moments):
            where = folder / str(number)
            where.mkdir()
            outcomes.append(strike_and_resume(moment, where, job, wholes[moment.options]))
            shutil.rmtree(where)
            progress.advance(task)
    return outcomes


def show(outcomes: Sequence[Outcome]) -> None:
    table = Table("struck", "adapter", "times", "exit codes", "went on after step", "bit-equal", title="Struck runs")
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
