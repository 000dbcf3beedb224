"""Training and inference on one GPU: images per second, share of peak FLOP/s, GPU busy share and peak memory.

    python -m benchmarks.gpu [--models vit-b vit-s convnext-t] [--batch N] [--steps 10] [--repeat 5] [--minutes 8]
                             [--json FILE] [--tiny]

Requires this repository, torch, lightning, transformers and peft. A contender with a missing package, such as timm, is
skipped, and the table shows the error. With several GPUs, set CUDA_VISIBLE_DEVICES=0. `--tiny` is a small version for
any machine, without torch.compile.

All contenders take the same uint8 batches, already on the device, and run the same number of steps in bf16 autocast
with float32 weights. The device is synchronised before and after the timed steps. Repetitions alternate between the
contenders. roadwork is our Lightning module with EMA, MCC, clipping and logging. Trainer is Hugging Face's with the
same network and its own defaults. A plain loop is forward, cross entropy, backward and AdamW.

FLOPs cover convolutions, matrix products and attention in a forward pass of our network, as counted by torch's
FlopCounterMode: two per multiply-add. Training counts as three forward passes. The peak rate is that of the fastest of
several bf16 matrix products, measured first. The busy share is the union of all kernel times that torch.profiler
records over some extra steps, divided by the time of these steps.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers.trainer_callback import PrinterCallback

from benchmarks.paired import compare, machine

# Each contender imports its own packages, so that a missing package skips only that contender.
# ruff: noqa: PLC0415

LEAD_IN, PROFILED_STEPS, N_BATCHES = 3, 5, 4
LR, WEIGHT_DECAY = 1e-4, 0.05
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PASSES = {"training": 3, "inference": 1}  # FLOPs of a step, in forward passes
BAR_TASK, BAR_SHARE, BAR_RATIO = "ViT-B/16 training", 0.35, 1.1
# Rows, inner size and columns: two square products, and those of ViT-B's layers at batch size 128.
PRODUCTS = ((8192, 8192, 8192), (4096, 4096, 4096), (25216, 768, 768), (25216, 768, 3072), (25216, 3072, 768))
TINY_PRODUCTS = ((128, 128, 128), (64, 256, 128))
NHWC = torch.channels_last
Line = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A network by its transformers and timm names, with its initial batch size."""

    name: str
    config: dict[str, Any]
    timm_name: str
    timm_arguments: dict[str, Any] = field(default_factory=dict)
    batch: int = 128
    img_size: int = 224
    memory_format: torch.memory_format = torch.contiguous_format


VIT_S = {"model_type": "vit", "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
MODELS = {
    "vit-b": Architecture("ViT-B/16", {"model_type": "vit"}, "vit_base_patch16_224"),
    "vit-s": Architecture("ViT-S/16", VIT_S, "vit_small_patch16_224", batch=256),
    "convnext-t": Architecture("ConvNeXt-T", {"model_type": "convnext"}, "convnext_tiny", memory_format=NHWC),
}
VIT_TINY = VIT_S | {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2}
VIT_TINY_TIMM = {"img_size": 32, "embed_dim": 32, "num_heads": 2, "depth": 2}
NEXT_TINY = {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
NEXT_TINY_TIMM = {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}
TINY_MODELS = {
    "vit-s": Architecture("tiny ViT", VIT_TINY, "vit_small_patch16_224", VIT_TINY_TIMM, 4, 32),
    "convnext-t": Architecture("tiny ConvNeXt", NEXT_TINY, "convnext_tiny", NEXT_TINY_TIMM, 4, 32, NHWC),
}


@dataclass(frozen=True)
class Job:
    """The shared input of all contenders: the initial network on the CPU, and the images on the device."""

    architecture: Architecture
    network: nn.Module
    device: torch.device
    pool: list[tuple[Tensor, Tensor]]  # uint8 images (B, 3, S, S) and int64 labels (B,)

    @property
    def batch(self) -> int:
        return len(self.pool[0][0])

    def our_network(self) -> nn.Module:
        return copy.deepcopy(self.network).to(self.device, memory_format=self.architecture.memory_format)

    def timm_network(self) -> nn.Module:
        import timm

        chosen = self.architecture
        network = timm.create_model(chosen.timm_name, num_classes=2, **chosen.timm_arguments)
        return network.to(self.device, memory_format=chosen.memory_format)


class TimedBatches:
    """Batches for the warm-up steps, the timed steps and one more step, whose request stops the clock.

    A batch is a dict of `image` (B, 3, S, S), augmented and normalised, and `label`.
    """

    def __init__(self, job: Job, steps: int, lead_in: int = LEAD_IN, *, profiled: bool = False) -> None:
        self.job, self.steps, self.lead_in = job, steps, lead_in
        self.augment: nn.Module | None = None
        self._times: list[float] = []
        activity = ProfilerActivity.CUDA if job.device.type == "cuda" else ProfilerActivity.CPU
        self._profiler = profile(activities=[activity]) if profiled else None
        self._mean, self._std = (torch.tensor(values, device=job.device).view(1, 3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return self.lead_in + self.steps + 1

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number in range(len(self)):
            if number in (self.lead_in, self.lead_in + self.steps):
                self._mark()
            images, labels = self.job.pool[number % len(self.job.pool)]
            images = images.float().div_(255)
            if self.augment:
                images, labels = self.augment(images, labels)
            images = ((images - self._mean) / self._std).contiguous(memory_format=self.job.architecture.memory_format)
            yield {"image": images, "label": labels}

    def _mark(self) -> None:
        synchronise(self.job.device)
        if self._profiler and not self._times:
            self._profiler.start()
        self._times.append(time.perf_counter())
        if self._profiler and len(self._times) == 2:
            self._profiler.stop()

    def seconds(self) -> float:
        """Returns the seconds of the timed steps. Raises RuntimeError unless the batches were iterated exactly once."""
        if len(self._times) != 2:
            raise RuntimeError(f"the batches must be iterated exactly once: {len(self._times)} timestamps, not 2")
        return self._times[1] - self._times[0]

    def busy_share(self) -> float | None:
        """Returns the busy share, or None if the profiler recorded no kernels."""
        kind = DeviceType.CUDA if self.job.device.type == "cuda" else DeviceType.CPU
        # Annotations are not kernels: they include the gaps between kernels.
        events = [e for e in self._profiler.events() or [] if e.device_type == kind and not e.is_user_annotation]
        microseconds = covered((event.time_range.start, event.time_range.end) for event in events)
        return microseconds / 1e6 / self.seconds() if events else None


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Returns the length of the union of (start, end) intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# A contender is called with the batches and returns its last loss or mean logit, which must be finite.


class RoadworkStep:
    """Trains with the Lightning module and the callbacks of `roadwork train`."""

    def __init__(self, job: Job, *, compiled: bool, augmented: bool = False) -> None:
        from roadwork.settings import TrainingSettings
        from roadwork.training.devices import compile_network
        from roadwork.training.module import RoadworkClassifier

        self.device, self.augment = job.device, None
        if augmented:
            from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025

            self.augment = LatestAugmentation2025(img_size=job.architecture.img_size).to(job.device)
        is_channels_last = job.architecture.memory_format is NHWC
        self.settings = TrainingSettings(lr=LR, weight_decay=WEIGHT_DECAY, channels_last=is_channels_last)
        self.module = RoadworkClassifier(job.our_network(), self.settings)
        if compiled:
            compile_network(self.module.model, job.device)

    def __call__(self, batches: TimedBatches) -> float:
        from roadwork.training.callbacks.ema_callback import EMACallback
        from roadwork.training.callbacks.mcc_callback import MCCCallback
        from roadwork.training.callbacks.metrics_callbacks import LossCallback

        ema = EMACallback(self.module.model, self.settings.ema_decay, self.settings.ema_warmup)
        trainer = L.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu", devices=1, precision="bf16-mixed",
            max_epochs=1, gradient_clip_val=self.settings.clip_norm, log_every_n_steps=10, limit_val_batches=0,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[MCCCallback(), LossCallback(), ema],
        )  # fmt: skip
        batches.augment = self.augment
        trainer.fit(self.module, batches, val_dataloaders=[])
        return trainer.callback_metrics["train/loss"].item()


class PlainLoop:
    """Trains with a plain PyTorch loop and AdamW with default settings."""

    def __init__(self, build: Callable[[], nn.Module], *, compiled: bool) -> None:
        self.network = build().train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        if compiled:
            self.network.compile()

    def __call__(self, batches: TimedBatches) -> float:
        for batch in batches:
            with torch.autocast(batch["image"].device.type, dtype=torch.bfloat16):
                loss = F.cross_entropy(logits_of(self.network, batch["image"]), batch["label"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()


class Inference:
    """Runs the network in inference mode."""

    def __init__(self, build: Callable[[], nn.Module], *, compiled: bool) -> None:
        self.network = build().eval()
        if compiled:
            self.network.compile()

    @torch.inference_mode()
    def __call__(self, batches: TimedBatches) -> float:
        for batch in batches:
            with torch.autocast(batch["image"].device.type, dtype=torch.bfloat16):
                logits = logits_of(self.network, batch["image"])
        return logits.float().mean().item()


class TrainerStep:
    """Trains with Hugging Face's Trainer and its defaults, without files and logs."""

    def __init__(self, job: Job, *, compiled: bool) -> None:
        self.job, self.network = job, WithLoss(job.our_network())
        if compiled:
            self.network.network.compile()

    def __call__(self, batches: TimedBatches) -> float:
        with TemporaryDirectory(prefix="roadwork-gpu-") as folder:
            arguments = transformers.TrainingArguments(
                folder, max_steps=len(batches), per_device_train_batch_size=self.job.batch, learning_rate=LR,
                weight_decay=WEIGHT_DECAY, bf16=True, use_cpu=self.job.device.type == "cpu", report_to="none",
                logging_strategy="no", save_strategy="no", disable_tqdm=True,
            )  # fmt: skip
            trainer = TrainerOnBatches(self.network, arguments)
            trainer.remove_callback(PrinterCallback)
            trainer.batches = batches
            return trainer.train().training_loss


class TrainerOnBatches(transformers.Trainer):
    batches: TimedBatches

    def get_train_dataloader(self) -> Any:
        return self.batches


class WithLoss(nn.Module):
    """A network that returns its loss, as Trainer expects. Trainer patches this wrapper, not the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        logits = logits_of(self.network, image)
        return {"loss": F.cross_entropy(logits, label), "logits": logits}


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    output = network(images)
    return output if isinstance(output, Tensor) else output.logits


Runner = Callable[[TimedBatches], float]


def contenders(job: Job, phase: str, modes: Sequence[str]) -> dict[str, Callable[[], Runner]]:
    """Returns the factory of each contender by name. Ours comes first, as the baseline."""

    def in_each_mode(name: str, build: Callable[..., Runner]) -> dict[str, Callable[[], Runner]]:
        return {f"{name}, {mode}": partial(build, compiled=mode == "compiled") for mode in modes}

    if phase == "inference":
        ours = in_each_mode("roadwork", partial(Inference, job.our_network))
        return ours | in_each_mode("timm", partial(Inference, job.timm_network))
    augmented = partial(RoadworkStep, job, compiled="compiled" in modes, augmented=True)
    return {
        **in_each_mode("roadwork", partial(RoadworkStep, job)),
        "plain loop, eager": partial(PlainLoop, job.our_network, compiled=False),
        **in_each_mode("timm, plain loop", partial(PlainLoop, job.timm_network)),
        **in_each_mode("Trainer", partial(TrainerStep, job)),
        f"roadwork, {modes[0]}, latest_2025": augmented,
    }


def take(runner: Runner, batches: TimedBatches) -> float:
    """Returns images per second. Raises RuntimeError if steps are missing or the loss is not finite."""
    if not math.isfinite(runner(batches)):
        raise RuntimeError("the loss is not finite")
    return batches.steps * batches.job.batch / batches.seconds()


def prepare(job: Job, build: Callable[[], Runner], deadline: float) -> tuple[Runner, Line]:
    """Builds and warms up a contender. Returns it with its busy share and its own peak memory in GB."""
    if time.monotonic() > deadline:
        raise TimeoutError("the time limit is reached; increase --minutes")
    on_gpu = job.device.type == "cuda"
    if on_gpu:
        gc.collect()  # reference cycles of earlier contenders hold GPU memory
    before = torch.cuda.memory_allocated(job.device) if on_gpu else 0
    runner = build()
    take(runner, TimedBatches(job, steps=2, lead_in=1))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(job.device)
    profiled = TimedBatches(job, PROFILED_STEPS, profiled=True)
    take(runner, profiled)
    peak = (torch.cuda.max_memory_allocated(job.device) - before) / 1e9 if on_gpu else None
    return runner, {"busy_share": profiled.busy_share(), "peak_gb": peak}


def failure(error: Exception, batch: int) -> Line:
    """Returns the table entry of a failed contender. Re-raises out-of-memory errors while the batch can shrink."""
    if isinstance(error, torch.OutOfMemoryError) and batch > 1:
        raise error
    return {"error": f"skipped, {type(error).__name__}: {error}".splitlines()[0]}


@dataclass(frozen=True)
class Plan:
    """The settings of all measurements, with the deadline and the peak rate in FLOP/s."""

    modes: tuple[str, ...]
    steps: int
    repeats: int
    deadline: float
    matrix_rate: float


def measure(job: Job, phase: str, plan: Plan) -> list[Line]:
    """Returns one row per contender of one network and phase. A failed contender's row contains its error.

    Raises:
        OutOfMemoryError: a contender runs out of memory at this batch size.
    """
    task, builds = f"{job.architecture.name} {phase}", contenders(job, phase, plan.modes)
    runners: dict[str, Runner] = {}
    facts: dict[str, Line] = {}
    speeds: dict[str, list[float]] = {name: [] for name in builds}
    for turn in range(-1, plan.repeats):  # the first pass builds and warms up all contenders
        if turn > 0 and time.monotonic() > plan.deadline:
            break
        for name in list(builds)[:: -1 if turn % 2 == 0 else 1]:
            try:
                if turn < 0:
                    sys.stderr.write(f"{task}: {name}\n")
                    runners[name], facts[name] = prepare(job, builds[name], plan.deadline)
                elif name in runners:
                    speeds[name].append(take(runners[name], TimedBatches(job, plan.steps)))
            except Exception as error:  # noqa: BLE001 - one failure must not stop the others
                runners.pop(name, None)
                facts[name] = failure(error, job.batch)
    ours, ran = next(iter(builds)), {name: speeds[name] for name in builds if name in runners}
    groups = [ran] if ours in ran else [{name: values} for name, values in ran.items()]
    compared = {line.name: asdict(line) for group in groups for line in compare(task, next(iter(group)), group)}
    return [{"task": task, "name": name, "batch": job.batch} | compared.get(name, {}) | facts[name] for name in builds]


def measure_what_fits(chosen: Architecture, batch: int, device: torch.device, phase: str, *, plan: Plan) -> list[Line]:
    """Runs `measure`, and halves the batch size of all contenders until none runs out of memory."""
    network = build_network(chosen)
    flops = count_flops(network, chosen.img_size) * PASSES[phase]
    while True:
        try:
            lines = measure(Job(chosen, network, device, random_batches(chosen, batch, device)), phase, plan)
            break
        except torch.OutOfMemoryError:
            batch //= 2
            sys.stderr.write(f"{chosen.name}: out of memory; retrying with batch size {batch}\n")
        finally:
            torch.compiler.reset()
            if device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
    for line in lines:
        line["gflop_per_image"] = flops / 1e9
        if "images_per_s" in line:
            line["matrix_share"] = line["images_per_s"] * flops / plan.matrix_rate
    return lines


def random_batches(chosen: Architecture, batch: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    random, shape = torch.Generator(device).manual_seed(0), (N_BATCHES, batch, 3, chosen.img_size, chosen.img_size)
    images = torch.randint(256, shape, dtype=torch.uint8, device=device, generator=random)
    return list(zip(images, torch.randint(2, shape[:2], device=device, generator=random), strict=True))


def build_network(chosen: Architecture) -> nn.Module:
    from roadwork.models.build import build_model
    from roadwork.settings import ModelSettings

    torch.manual_seed(0)
    return build_model(ModelSettings(pretrained=False, config=dict(chosen.config)), chosen.img_size)


def count_flops(network: nn.Module, img_size: int) -> int:
    """Returns the FLOPs of a forward pass of one image. Uses math attention: fused kernels may not be counted."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(torch.zeros(1, 3, img_size, img_size))
    return counter.get_total_flops()


def measure_product(device: torch.device, shape: tuple[int, int, int], seconds: float) -> float:
    """Returns the FLOP/s of a bf16 product (rows, inner) x (inner, columns): median of 3 runs of `seconds` each."""
    rows, inner, columns = shape
    left, right = (torch.randn(size, device=device).bfloat16() for size in ((rows, inner), (inner, columns)))
    out = left @ right

    def time_products(n: int) -> float:
        synchronise(device)
        started = time.perf_counter()
        for _ in range(n):
            torch.mm(left, right, out=out)
        synchronise(device)
        return time.perf_counter() - started

    time_products(3)
    n = math.ceil(5 * seconds / time_products(5))
    return 2 * rows * inner * columns * n / median(time_products(n) for _ in range(3))


def judge_bar(lines: Sequence[Line]) -> list[str]:
    """Returns the two targets for training ViT-B/16, with the measured values."""
    by_name = {line["name"]: line for line in lines if line["task"] == BAR_TASK and "images_per_s" in line}
    ours = by_name.get("roadwork, compiled")
    if ours is None:
        return [f"Target: {BAR_TASK} was not measured for roadwork, compiled."]
    judged = [("of the peak FLOP/s", ours["matrix_share"], BAR_SHARE)]
    ratios = [line["ours_ratio"] for name, line in by_name.items() if name.endswith("plain loop, eager")]
    judged += [("times the faster plain loop, eager", min(ratios), BAR_RATIO)] if ratios else []
    start = f"Target: {BAR_TASK}, roadwork, compiled"
    return [
        f"{start}: {value:.3g} {of} (target {asked:g}): {'met' if value >= asked else 'MISSED'}"
        for of, value, asked in judged
    ]


def as_table(lines: Sequence[Line], title: str) -> Table:
    """Formats the rows as a table."""
    table = Table("task", "batch", "contender", "images/s (slowest to fastest)", "ours / this", "of peak", "busy", "GB")
    table.title = title
    for line in lines:
        cells = [line.get("error", "")]
        if "images_per_s" in line:
            speed, ratio = (
                f"{line[name]:.4g} ({line[f'{name}_low']:.4g} to {line[f'{name}_high']:.4g})" if line[name] else ""
                for name in ("images_per_s", "ours_ratio")
            )
            busy = "" if line["busy_share"] is None else f"{line['busy_share']:.0%}"
            peak = "" if line["peak_gb"] is None else f"{line['peak_gb']:.1f}"
            cells = [speed, ratio, f"{line['matrix_share']:.1%}", busy, peak]
        table.add_row(line["task"], str(line["batch"]), line["name"], *cells)
    return table


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, help="networks (default: all)")
    parser.add_argument("--batch", type=int, help="batch size; halved until all fit (default: 128; vit-s 256)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per repetition (default: 10)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--minutes", type=float, default=8, help="start nothing new after this time (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--tiny", action="store_true", help="run tiny networks without torch.compile, on any machine")
    options = parser.parse_args(arguments)
    if not (options.tiny or torch.cuda.is_available()):
        parser.error("no CUDA device found; --tiny runs a small version on the CPU")
    available = TINY_MODELS if options.tiny else MODELS
    options.models = options.models or list(available)
    if not available.keys() >= set(options.models):
        parser.error(f"--tiny supports only {', '.join(available)}")
    if min(options.steps, options.repeat, 1 if options.batch is None else options.batch) < 1:
        parser.error("--batch, --steps and --repeat must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # for matrix products outside autocast, in all contenders
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    models, modes, products, seconds = MODELS, ("compiled", "eager"), PRODUCTS, 0.2
    if options.tiny:
        models, modes, products, seconds = TINY_MODELS, ("eager",), TINY_PRODUCTS, 0.01
    rates = {" x ".join(map(str, shape)): measure_product(device, shape, seconds) for shape in products}
    plan = Plan(modes, options.steps, options.repeat, deadline, max(rates.values()))
    lines: list[Line] = []
    for phase, name in itertools.product(PASSES, options.models):
        lines += measure_what_fits(models[name], options.batch or models[name].batch, device, phase, plan=plan)
        if options.json:  # keep partial results of an interrupted run
            facts = {"matrix_flop_per_s": rates, "steps": options.steps, "bar": judge_bar(lines), "lines": lines}
            options.json.write_text(json.dumps(machine() | facts, indent=1) + "\n", encoding="utf-8")
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    console.print(as_table(lines, " | ".join(machine().values())))
    flops = {line["task"]: f"{line['task']}: {line['gflop_per_image']:.4g} GFLOP per image" for line in lines}
    rate_lines = (f"bf16 {shape}: {rate / 1e12:.4g} TFLOP/s" for shape, rate in rates.items())
    console.print(*rate_lines, *flops.values(), *judge_bar(lines), sep="\n")


if __name__ == "__main__":
    main()
