"""The contract of NATIX StreetVision's miners, who load an exported folder with transformers 4.45.2: its files.

What is asked of the network's answers is in verify_behaviour.py.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from roadwork.errors import DataError
from roadwork.export.facts import CONFIG_FILE, read_json
from roadwork.export.folder import NATIX_CARD_FILE
from roadwork.export.natix_card import HOTKEY_PLACEHOLDER
from roadwork.export.preprocessing import PROCESSOR_TYPE
from roadwork.inference.networks import WEIGHTS_FILE
from roadwork.models.architecture import ID2LABEL
from roadwork.models.classifier import PooledConfig
from roadwork.models.ensemble import EnsembleConfig
from roadwork.models.processor import PROCESSOR_FILE

# What AutoModelForImageClassification of transformers 4.45.2 knows among the networks that roadwork trains.
STREETVISION_MODEL_TYPES = ("vit", "dinov2", "convnextv2", "siglip", "swinv2", "resnet", "hiera")
OK, WARNING, FAILED = "ok", "warning", "failed"
_EXPORT_AGAIN = "export again with `roadwork export RUN --out DIR`"
_CARD_FIELDS: dict[str, tuple[type, ...]] = {
    "model_name": (str,),
    "description": (str,),
    "version": (str,),
    "submitted_by": (str,),
    "submission_time": (int, float),
}


@dataclass(frozen=True)
class ContractCheck:
    """One clause: its status (`ok`, `warning` or `failed`), what was found, what is allowed, and what to do."""

    name: str
    status: str
    found: str
    allowed: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def check_files(folder: Path) -> Iterator[ContractCheck]:
    """Yields a check for each clause on the folder's files; a file that cannot be read is a failed one."""
    for name, check in _CHECKS.items():
        try:
            status, found, allowed, fix = check(folder)
        except DataError as error:
            status, found, allowed, fix = FAILED, str(error), "a file that can be read", _EXPORT_AGAIN
        yield ContractCheck(name, status, found, allowed, fix)


_Finding = tuple[str, str, str, str]


def _status(is_right: bool) -> str:
    return OK if is_right else FAILED


def _model_type(folder: Path) -> _Finding:
    found = read_json(folder, CONFIG_FILE).get("model_type")
    fix = "train a network of one of these types: transformers 4.45.2 cannot load another"
    if found == PooledConfig.model_type:
        inner = read_json(folder, CONFIG_FILE).get("vision_config", {}).get("model_type")
        found = f"{found}, roadwork's own class around a {inner}"
        if inner in STREETVISION_MODEL_TYPES:
            fix = "train with model.pooling=auto: transformers has no class for this pooling"
    elif found == EnsembleConfig.model_type:
        fix = "it loads no ensemble: export the runs one by one, `roadwork export ENSEMBLE --members --out DIR`"
    return _status(found in STREETVISION_MODEL_TYPES), str(found), ", ".join(STREETVISION_MODEL_TYPES), fix


def _processor(folder: Path) -> _Finding:
    content = read_json(folder, PROCESSOR_FILE)
    found = content.get("image_processor_type", content.get("feature_extractor_type"))
    fix = f"{_EXPORT_AGAIN}: with use_fast=True 4.45.2 has no fast form of others, and refuses BitImageProcessor"
    return _status(found == PROCESSOR_TYPE), str(found), PROCESSOR_TYPE, fix


def _problem_type(folder: Path) -> _Finding:
    found = read_json(folder, CONFIG_FILE).get("problem_type")
    fix = f'set "problem_type": null in {CONFIG_FILE}: with single_label_classification 4.45.2 applies a sigmoid'
    return _status(found is None), json.dumps(found), "null", fix


def _labels(folder: Path) -> _Finding:
    config = read_json(folder, CONFIG_FILE)
    forward, backward = config.get("id2label"), config.get("label2id")
    expected = {str(index): label for index, label in ID2LABEL.items()}
    is_right = forward == expected and backward == {label: index for index, label in ID2LABEL.items()}
    found = f"id2label {json.dumps(forward)}, label2id {json.dumps(backward)}"
    fix = f"{_EXPORT_AGAIN}: the score that counts is found by the label's exact name"
    return _status(is_right), found, " and ".join(f"{index}: {label}" for index, label in expected.items()), fix


def _remote_code(folder: Path) -> _Finding:
    files = [name for name in (CONFIG_FILE, PROCESSOR_FILE) if (folder / name).is_file()]
    where = [name for name in files if "auto_map" in read_json(folder, name)]
    where = [f"auto_map in {name}" for name in where] + sorted(path.name for path in folder.rglob("*.py"))
    fix = "remove it: a miner does not run a folder's own code"
    return _status(not where), ", ".join(where) or "none", "no auto_map and no Python file", fix


def _weights(folder: Path) -> _Finding:
    path = folder / WEIGHTS_FILE
    fix = f"{_EXPORT_AGAIN} --format hf"
    allowed = f"{WEIGHTS_FILE}, float32"
    if not path.is_file():
        others = sorted(found.name for found in folder.glob("*") if found.suffix in {".bin", ".onnx", ".pt", ".ckpt"})
        return FAILED, f"no {WEIGHTS_FILE}" + (f", but {', '.join(others)}" if others else ""), allowed, fix
    try:
        with safe_open(path, framework="pt") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (SafetensorError, OSError) as error:
        return FAILED, f"{WEIGHTS_FILE} cannot be read: {error}", allowed, fix
    config = read_json(folder, CONFIG_FILE)
    said = {config[key] for key in ("dtype", "torch_dtype") if key in config} or {"nothing"}
    # Whole numbers are counters, such as BatchNorm's.
    is_right = types - {"I64"} == {"F32"} and said <= {"float32", "nothing"}
    found = f"{path.stat().st_size / 1e6:.1f} MB of {', '.join(sorted(types))}; {CONFIG_FILE} says {', '.join(said)}"
    return _status(is_right), found, allowed, fix


def _card(folder: Path) -> _Finding:
    card = read_json(folder, NATIX_CARD_FILE)
    wrong = [
        name
        for name, types in _CARD_FIELDS.items()
        if not isinstance(card.get(name), types) or isinstance(card[name], bool) or card[name] == ""
    ]
    if "version" not in wrong and not re.fullmatch(r"\d+\.\d+\.\d+", card["version"]):
        wrong.append("version")
    if "submission_time" not in wrong and card["submission_time"] > time.time():
        wrong.append("submission_time")
    allowed = f"{', '.join(_CARD_FIELDS)}; version as 1.0.0, submission_time in seconds, not in the future"
    if wrong:
        shown = ", ".join(f"{name} {json.dumps(card.get(name))}" for name in wrong)
        return FAILED, shown, allowed, f"mend these fields of {NATIX_CARD_FILE}"
    if card["submitted_by"] == HOTKEY_PLACEHOLDER:
        fix = f"before you publish it, put your wallet's hotkey into submitted_by of {NATIX_CARD_FILE}"
        return WARNING, f"all fields, but submitted_by is still {HOTKEY_PLACEHOLDER}", allowed, fix
    return OK, "all fields", allowed, ""


_CHECKS: dict[str, Callable[[Path], _Finding]] = {
    "model type": _model_type,
    "image processor": _processor,
    "problem type": _problem_type,
    "labels": _labels,
    "no code of its own": _remote_code,
    "weights": _weights,
    NATIX_CARD_FILE: _card,
}
