"""The row of the wiring table on an adapter: what it changes, and that nothing else was changed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from roadwork.preflight.observations import Observations, WireRow
from roadwork.training.lora.summary import adapter_summary

# peft's names: of what it wraps, of a layer's own weights inside, and of the head's trained copy.
_WRAPPED, _OWN, _HEAD = "base_model.model.", ".base_layer.", ".modules_to_save."


def adapter_rows(seen: Observations) -> Iterator[WireRow]:
    """Whether every adapted layer and the head moved, and the network's own weights stayed bit-equal."""
    adapter = seen.trainer.settings.training.adapter
    if adapter == "none":
        return
    probe = seen.probe
    summary = adapter_summary(probe.model)
    first, later = probe.weights_after_step[0], (*probe.weights_after_step[1:], probe.weights_after_validation)
    names = [name for name, _ in probe.model.named_parameters()]
    moved = {name for name in names if any(not torch.equal(first[name], weights[name]) for weights in later)}
    added = {
        target: {name for name in names if name.startswith(f"{_WRAPPED}{target}.") and _OWN not in name}
        for target in summary.targets
    }
    still = [target for target, own in added.items() if not own & moved]
    head = {name for name in names if _HEAD in name}
    frozen = set(names) - head - set().union(*added.values())
    drifted = sorted(frozen & moved)
    yield WireRow(
        f"adapter ({adapter})",
        f"{summary}; {len(summary.targets) - len(still)} of {len(summary.targets)} layers"
        + (f", not {still[0]}," if still else "")
        + f" and {len(head & moved)} of {len(head)} tensors of the head moved, "
        f"{len(drifted)} of {len(frozen)} frozen ones" + (f", first {drifted[0]}" if drifted else ""),
        bool(summary.targets) and not still and bool(head) and head <= moved and not drifted,
        "apply_adapter must wrap layers that the loss reaches, freeze the rest, and train the head",
    )
