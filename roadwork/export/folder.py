"""Writes the export folder atomically, with weights and config.json."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from roadwork.core.errors import DataError
from roadwork.core.files import write_json
from roadwork.detector.familiarity import REFERENCE_FILE
from roadwork.detector.format import CARD_FILE, CONFIG_FILE, KEY, ExportFacts
from roadwork.detector.networks import ONNX_FILE, WEIGHTS_FILE
from roadwork.evaluation.seen_rows import TRAINING_ROWS_FILE
from roadwork.export.replay import REPLAY_FOLDER
from roadwork.models.architecture import ID2LABEL
from roadwork.models.build import without_transformers_report
from roadwork.models.processor import PROCESSOR_FILE

NATIX_CARD_FILE = "model_card.json"
WRITTEN = {
    *(CONFIG_FILE, PROCESSOR_FILE, WEIGHTS_FILE, ONNX_FILE),
    *(CARD_FILE, NATIX_CARD_FILE, REPLAY_FOLDER, TRAINING_ROWS_FILE, REFERENCE_FILE),
}

# Larger than any network here, so that there is one file, which every consumer can load.
_ONE_FILE = "1000GB"


def check_target(out: Path) -> None:
    """Checks that an export may be written to this folder.

    Raises:
        DataError: it has files that `roadwork export` did not write, and that would be lost.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file. Name a folder with --out.")
    try:
        ExportFacts.read(out)
    except DataError:
        raise DataError(
            f"{out} exists and was not written by `roadwork export`, so it is not replaced. Name a new folder."
        ) from None
    foreign = sorted(path.name for path in out.iterdir() if path.name not in WRITTEN)
    if foreign:
        raise DataError(
            f"{out} is an export with additional files: {', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}. "
            "Replacing it would delete them. Name a new folder, or move these files away."
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`; it is synced and renamed to `out` after the block, or removed if the block fails.

    Raises:
        DataError: as `check_target`, which runs again at the end of the block.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        folder, replaced = Path(beside) / "new", Path(beside) / "replaced"
        folder.mkdir()
        yield folder
        _sync(folder)
        check_target(out)
        if out.exists():
            out.rename(replaced)
        try:
            folder.rename(out)
        except OSError:
            if replaced.exists():
                replaced.rename(out)
            raise
        _sync_one(out.parent)


def file_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of each file by its path in the folder; `replay/` is one entry."""
    sizes: dict[str, int] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        shown = f"{REPLAY_FOLDER}/" if name.parts[0] == REPLAY_FOLDER else str(name)
        sizes[shown] = sizes.get(shown, 0) + path.stat().st_size
    return sizes


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_weights(network: PreTrainedModel, folder: Path) -> None:
    """Writes model.safetensors, with the names that transformers gave its tensors before version 5, and config.json."""
    with without_transformers_report():
        network.save_pretrained(folder, max_shard_size=_ONE_FILE)


def write_config(network: PreTrainedModel, folder: Path, facts: ExportFacts) -> None:
    """Writes config.json: the fields of transformers, our fields under `roadwork`, and no path of this machine."""
    path = folder / CONFIG_FILE
    network.config.save_pretrained(folder)
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    _drop_paths(fields)
    fields |= {
        "architectures": [type(network).__name__],
        "id2label": {str(index): label for index, label in ID2LABEL.items()},
        "label2id": {label: index for index, label in ID2LABEL.items()},
        # An explicit null: the pipeline of 4.45 applies a sigmoid for single_label_classification.
        "problem_type": None,
        "dtype": "float32",
        "torch_dtype": "float32",  # the same, for 4.45
        KEY: facts.as_config(),
    }
    write_json(path, fields)


def _drop_paths(fields: dict[str, Any]) -> None:
    """Removes the paths from which the network and its parts were loaded; they can be private."""
    fields.pop("_name_or_path", None)
    for part in fields.values():
        if isinstance(part, dict):
            _drop_paths(part)
