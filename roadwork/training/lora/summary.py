"""What of a network is trained, counted and said in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

# "vit.layers.3." of "vit.layers.3.attention.q_proj": up to the last number that is a module's name.
_BLOCK = re.compile(r".*\.\d+\.")


@dataclass(frozen=True)
class AdapterSummary:
    """What a model trains.

    Attributes:
        adapter: its name; None where there is none.
        trainable: numbers that are trained, the head's included.
        total: all parameters.
        targets: the adapted modules, by their names in the network without adapter.
    """

    adapter: str | None
    trainable: int
    total: int
    targets: list[str]

    def __str__(self) -> str:
        share = f"{self.trainable:,} of {self.total:,} parameters ({100 * self.trainable / self.total:.3g} %)"
        if self.adapter is None:
            return f"trains {share}, without an adapter"
        return f"trains {share}: {self.adapter} on {group_targets(self.targets)}, and the head"


def adapter_summary(model: nn.Module) -> AdapterSummary:
    """Counts what is trained."""
    parameters = list(model.parameters())
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    return AdapterSummary(
        adapter=_adapter_of(model),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
        targets=[name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)],
    )


def group_targets(targets: Sequence[str]) -> str:
    """Names such as `vit.layers.0.attention.query` in short: "query, value, fc1, fc2 in 12 blocks: 48 layers"."""
    kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in targets))
    blocks = {found[0] for name in targets if (found := _BLOCK.match(name))}
    where = f" in {len(blocks)} blocks" if 1 < len(blocks) < len(targets) else ""
    return f"{kinds}{where}: {len(targets)} layers"


def _adapter_of(model: nn.Module) -> str | None:
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter]
    return "dora" if getattr(config, "use_dora", False) else config.peft_type.value.lower()
