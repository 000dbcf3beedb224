"""What to try, by what bounds a run: settings that are not what they could be."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.profiling.input_times import PHOTOS, RAM
from roadwork.settings import Settings

_LARGER_BATCH = "data.dataloader.batch_size=N: a larger batch shares what a step costs among more images"


@dataclass(frozen=True)
class Circumstances:
    """What a run had at hand.

    Attributes:
        device: torch's name of it, such as cpu or cuda:0.
        precision: Lightning's name of it.
        workers: processes of the loader.
        cores: that this process may use.
        threads: that torch computes with on a CPU.
        origin: where most of the images came from.
    """

    device: str
    precision: str
    workers: int
    cores: int
    threads: int
    origin: str

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


def what_to_try(bound_by: str, settings: Settings, here: Circumstances) -> list[str]:
    """Changes that could move the bound, the most promising first."""
    if bound_by in ("reading", "decoding", "the resized copy", "the loader"):
        return _for_input(bound_by, settings, here)
    if bound_by == "the network":
        return _for_network(settings, here)
    mode = settings.data.augmentation.train.mode
    elsewhere = {
        "the transfer": ["data.dataloader.pin_memory=true"] if settings.data.dataloader.pin_memory is False else [],
        "augmentation": [
            f"data.augmentation.train.mode=none shows what {mode} costs; its strength is a question of accuracy first",
            *_for_cpu(here),
        ],
        "the optimizer": [
            *(["training.fused_optimizer=true"] if settings.training.fused_optimizer is False else []),
            f"training.accumulate={2 * settings.training.accumulate}: fewer optimizer steps",
        ],
        "callbacks": ["training.use_ema=false shows what averaging costs"] if settings.training.use_ema else [],
        "the loop itself": ["--trace FILE shows what runs when"],
    }
    return [*elsewhere[bound_by], _LARGER_BATCH]


def _for_input(bound_by: str, settings: Settings, here: Circumstances) -> list[str]:
    data, tries = settings.data, []
    if here.origin == PHOTOS and bound_by != "the loader":
        copies = "`roadwork prepare` makes a resized copy once, which training then reads by itself"
        tries.append(copies if data.prepared.use != "never" else f"data.prepared.use=auto: {copies}")
    if here.origin != RAM and data.cache == "none":
        tries.append("data.cache=auto: images are held in RAM where they fit")
    if here.workers < here.cores:
        tries.append(f"data.dataloader.num_workers={here.cores}: a process a core reads ahead")
    elif bound_by == "reading":
        tries.append(f"data.dataloader.num_workers={2 * here.cores}: more reads at once; a local disk, if this is none")
    elif bound_by == "the loader":
        tries.append(f"data.dataloader.prefetch_factor={2 * data.dataloader.prefetch_factor}: a longer queue")
    return tries or ["more cores, or a smaller data.img_size"]


def _for_network(settings: Settings, here: Circumstances) -> list[str]:
    training, tries = settings.training, _for_cpu(here)
    if not here.is_cpu and here.precision == "32-true":
        tries.append("training.precision=bf16-mixed, where the device has it")
    if training.gradient_checkpointing:
        tries.append("training.gradient_checkpointing=false, if the memory allows")
    if not training.compile:
        tries.append("training.compile=true: fewer, larger kernels, once they are compiled")
    if settings.model.attention == "eager":
        tries.append("model.attention=auto")
    if not training.channels_last:
        tries.append("training.channels_last=true, which convolutions want")
    if not here.is_cpu:
        tries.append("data.dataloader.batch_size=auto: the largest that fits")
    if settings.model.pretrained and training.adapter == "none" and not training.freeze_backbone:
        frozen = "training.freeze_backbone=true data.augmentation.train.mode=none"
        tries.append(f"{frozen}: the head alone, on features that are computed once")
    return [*tries, "a smaller data.img_size or model: a question of accuracy first"]


def _for_cpu(here: Circumstances) -> list[str]:
    if not here.is_cpu:
        return []
    threads = f"OMP_NUM_THREADS={here.cores}: torch computes with {here.threads} of {here.cores} cores"
    return [*([threads] if here.threads < here.cores else []), "a GPU"]
