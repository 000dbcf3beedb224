"""The wiring table: each row is a check on what was observed in real batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from roadwork.preflight.data_wires import augmentation_rows, copy_rows, data_rows, extra_rows
from roadwork.preflight.recorder import Observations, WireRow
from roadwork.preflight.training_wires import adapter_rows, callback_rows, frozen_rows, loss_rows, pooling_rows
from roadwork.training.checkpoints import OMITTED_KEY, fingerprint


def judge(seen: Observations) -> list[WireRow]:
    """Every row of the wiring table, in the order in which data flows."""
    return [
        *data_rows(seen),
        *extra_rows(seen),
        *copy_rows(seen),
        *augmentation_rows(seen),
        *_training_rows(seen),
        *loss_rows(seen),
        *pooling_rows(seen),
        *frozen_rows(seen),
        *adapter_rows(seen),
        *callback_rows(seen),
        _checkpoint_row(seen),
    ]


def _training_rows(seen: Observations) -> Iterator[WireRow]:
    probe = seen.probe
    losses = probe.train.losses + probe.validation.losses
    yield WireRow(
        "loss",
        f"training loss {_range(probe.train.losses)}, validation loss {_range(probe.validation.losses)}, "
        f"learning rate {_range(probe.learning_rates)}",
        bool(np.isfinite(losses).all()) and bool(probe.learning_rates) and min(probe.learning_rates) > 0,
        "the loss must be finite and the learning rate above 0: lower training.lr, or set training.precision=32-true",
    )
    parameters = dict(probe.model.named_parameters())
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    first, last = probe.weights_after_step[0], probe.weights_after_step[-1]
    with_gradient = {n for n in trainable if (g := probe.gradients.get(n)) and g.came and g.finite and g.nonzero}
    moved = {name for name in parameters if not torch.equal(first[name], last[name])}
    # The optimizer changed these, and AdaLoRA then pruned them back to zero.
    pruned = {n for n in probe.stepped & trainable if "lora_E" in n and not last[n].any()}
    stuck, drifted = sorted(trainable - with_gradient), sorted(moved - trainable)
    n_trainable = sum(parameters[name].numel() for name in trainable)
    yield WireRow(
        "gradients",
        f"{n_trainable:,} of {sum(p.numel() for p in parameters.values()):,} parameters are trainable; "
        f"{len(with_gradient)} of {len(trainable)} trainable tensors received a finite, nonzero gradient"
        + (f" (not {stuck[0]})" if stuck else ""),
        bool(trainable) and not stuck,
        "the loss must depend on every trainable parameter; freeze the parameters that should not train",
    )
    yield WireRow(
        "optimizer",
        f"{len(probe.weights_after_step) - 1} steps updated {len(moved & trainable)} of {len(trainable)} trainable "
        f"tensors; {len(drifted)} of {len(parameters) - len(trainable)} frozen tensors changed"
        + (f" (first: {drifted[0]})" if drifted else "")
        + (f"; {len(pruned)} pruned to zero" if pruned else ""),
        trainable <= moved | pruned | set(stuck) and bool(moved) and not drifted,
        "configure_optimizers must pass every trainable parameter to the optimizer, and no frozen one",
    )


def _checkpoint_row(seen: Observations) -> WireRow:
    """Checks that the checkpoint contains the weights used in validation: the EMA weights, if EMA is on.

    Its fingerprint must match the frozen weights that it omits.
    """
    judged = seen.probe.weights_in_validation
    saved = {
        name.removeprefix("model."): value for name, value in (seen.checkpoint or {}).get("state_dict", {}).items()
    }
    equal = [name for name, value in judged.items() if name in saved and torch.equal(saved[name].cpu(), value)]
    omitted = (seen.checkpoint or {}).get(OMITTED_KEY, {"names": []})
    is_known = not omitted["names"] or omitted["sha256"] == fingerprint({n: judged[n] for n in omitted["names"]})
    return WireRow(
        "checkpoint",
        "no checkpoint was written"
        if seen.checkpoint is None
        else f"{len(equal)} of {len(judged) - len(omitted['names'])} saved tensors equal the weights used in validation"
        + (_describe_omitted(len(omitted["names"]), is_known) if omitted["names"] else ""),
        bool(judged) and judged.keys() == {*equal, *omitted["names"]} and is_known,
        "ModelCheckpoint must save the weights used in validation, and EMACallback must put its average into them",
    )


def _describe_omitted(n_omitted: int, is_known: bool) -> str:
    return f"; {n_omitted} frozen tensors omitted, their fingerprint {'matches' if is_known else 'does NOT match'}"


def _range(values: list[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}" if values else "none"
