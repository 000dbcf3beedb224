"""`model.safetensors` and `config.json`, as both transformers 4.45 and 5 read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from roadwork.export.facts import CONFIG_FILE, KEY, ExportFacts
from roadwork.models.architecture import ID2LABEL
from roadwork.models.build import without_transformers_report
from roadwork.runs import write_json

# A folder of one file is what every consumer can load; transformers' own limit is above any network here.
_ONE_FILE = "1000GB"


def write_weights(network: PreTrainedModel, folder: Path) -> None:
    """Writes model.safetensors, with the names that transformers gave its tensors before version 5, and config.json."""
    with without_transformers_report():
        network.save_pretrained(folder, max_shard_size=_ONE_FILE)


def write_config(network: PreTrainedModel, folder: Path, facts: ExportFacts) -> None:
    """Writes config.json: transformers' fields, ours under `roadwork`, and no path of this machine."""
    path = folder / CONFIG_FILE
    network.config.save_pretrained(folder)
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    _drop_paths(fields)
    fields |= {
        "architectures": [type(network).__name__],
        "id2label": {str(index): label for index, label in ID2LABEL.items()},
        "label2id": {label: index for index, label in ID2LABEL.items()},
        # Said and not left out: 4.45's pipeline applies a sigmoid where it is single_label_classification.
        "problem_type": None,
        "dtype": "float32",
        "torch_dtype": "float32",  # the same, for 4.45
        KEY: facts.as_config(),
    }
    write_json(path, fields)


def _drop_paths(fields: dict[str, Any]) -> None:
    """Removes where a network was loaded from, also in its parts: it can be a folder in somebody's home."""
    fields.pop("_name_or_path", None)
    for part in fields.values():
        if isinstance(part, dict):
            _drop_paths(part)
