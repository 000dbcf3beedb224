"""What bounds a run: its loader or one part of the step."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.profiling.input_times import COPY, PHOTOS, RAM, InputTimes
from roadwork.profiling.stage_clock import OTHER

# With workers the loader runs beside the step, so the step waits only where the loader is the slower one. Below this
# share of the step a wait is taken for chance.
WAIT_SHARE = 0.2
# What reading and decoding must explain of the time that the loader takes, to be blamed for it.
EXPLAINED_SHARE = 0.5
_GROUPS = {
    "the transfer": ("transfer",),
    "augmentation": ("augment",),
    "the network": ("forward", "backward"),
    "the optimizer": ("optimizer",),
    "callbacks": ("callbacks",),
    "the loop itself": (OTHER,),
}


@dataclass(frozen=True)
class Verdict:
    """What bounds a run.

    Attributes:
        bound_by: "reading", "decoding", "the resized copy" or "the loader"; else "the transfer", "augmentation", "the
            network", "the optimizer", "callbacks" or "the loop itself".
        sentence: says so with figures.
        loader_images_per_s: what the workers could read and decode, if each had a core to itself.
        step_images_per_s: what the rest of the step could take, if it never waited.
    """

    bound_by: str
    sentence: str
    loader_images_per_s: float
    step_images_per_s: float


def judge(mean_s: dict[str, float], images_per_step: float, times: InputTimes, workers: int, cores: int) -> Verdict:
    """Compares what the loader gives with what the rest of the step takes.

    Without workers the two take turns, and the larger part of the step bounds it. With workers the slower of the two
    bounds it, whatever its share: a queue that filled during the first steps can hide a slow loader for a while.

    Args:
        mean_s: seconds of each stage in a mean step.
        images_per_step: mean.
        times: of single images.
        workers: processes of the loader.
        cores: that they share.
    """
    step_s = sum(mean_s.values())
    wait_s = mean_s.get("wait", 0.0)
    loader_per_s = times.images_per_s * max(1, min(workers, cores))
    rest_per_s = images_per_step / max(step_s - wait_s, 1e-9)
    groups = {name: sum(mean_s.get(stage, 0.0) for stage in stages) for name, stages in _GROUPS.items()}
    largest = max(groups, key=lambda name: groups[name])
    waits = wait_s >= WAIT_SHARE * step_s if workers else wait_s >= groups[largest]
    is_hidden = workers > 0 and not waits and loader_per_s < rest_per_s
    if not waits and not is_hidden:
        sentence = _bound_by_step(largest, groups[largest] / step_s, images_per_step / step_s)
        return Verdict(largest, sentence, loader_per_s, rest_per_s)
    loader_s = step_s if workers else wait_s
    is_explained = is_hidden or images_per_step / loader_per_s >= EXPLAINED_SHARE * loader_s
    part = _input_part(times) if is_explained else "the loader"
    given = loader_per_s if is_hidden else images_per_step / loader_s
    sentence = (
        f"Bound by {part}: {_of_workers(workers)} the loader gives {rate(given)} images/s, "
        f"the rest of the step could take {rate(rest_per_s)}."
    )
    if is_hidden:
        sentence += " In these few steps the loader's queue still hid it."
    elif part == "the loader":
        sentence += " Reading and decoding explain less than half of it: batches are put together and sent over, or "
        sentence += "workers and network share the cores." if workers else "in the training process itself."
    return Verdict(part, sentence, loader_per_s, rest_per_s)


def _bound_by_step(part: str, share: float, images_per_s: float) -> str:
    named = "the network (forward and backward" if part == "the network" else f"{part} ("
    separator = ", " if part == "the network" else ""
    return f"Bound by {named}{separator}{share:.0%} of a step): {rate(images_per_s)} images/s."


def _input_part(times: InputTimes) -> str:
    if times.origin == PHOTOS:
        return "reading" if times.read_ms.mean > times.decode_ms.mean else "decoding"
    return {COPY: "the resized copy", RAM: "the loader"}[times.origin]


def _of_workers(workers: int) -> str:
    return {0: "without workers", 1: "with 1 worker"}.get(workers, f"with {workers} workers")


def rate(images_per_s: float) -> str:
    """Images per second with up to three digits, as people read them."""
    return f"{images_per_s:,.0f}" if images_per_s >= 10 else f"{images_per_s:.2g}"
