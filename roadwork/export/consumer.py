"""Checks an export against the StreetVision consumer: its files, its outputs, and loading it in a miner's Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from roadwork.core.errors import ConfigError, DataError
from roadwork.detector.detector import Detector
from roadwork.detector.format import CONFIG_FILE, PROCESSOR_TYPE, read_json
from roadwork.detector.networks import WEIGHTS_FILE
from roadwork.export.folder import NATIX_CARD_FILE
from roadwork.export.model_card import HOTKEY_PLACEHOLDER
from roadwork.export.parity import TIE
from roadwork.models.architecture import ID2LABEL
from roadwork.models.classifier import PooledConfig
from roadwork.models.ensemble import EnsembleConfig
from roadwork.models.processor import PROCESSOR_FILE

# The supported networks that AutoModelForImageClassification of transformers 4.45.2 can load.
STREETVISION_MODEL_TYPES = ("vit", "dinov2", "convnextv2", "siglip", "swinv2", "resnet", "hiera")
CONSUMER_TRANSFORMERS = "4.45.2"
# The versions of the consumer's lock file, and the versions of Python that it allows.
CONSUMER_VERSIONS = {
    "torch": "2.6.0",
    "torchvision": "0.21.0",
    "pillow": "10.4.0",
    "numpy": "2.2.6",
    "tokenizers": "0.20.3",
    "safetensors": "0.7.0",
    "transformers": CONSUMER_TRANSFORMERS,
}
CONSUMER_PYTHONS = ("3.10", "3.11")
SCRIPT = Path(__file__).parent / "assets" / "streetvision_consumer.py"
MAX_LATENCY_S = 9.0
OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"

_CARD_FIELDS: dict[str, tuple[type, ...]] = {
    "model_name": (str,),
    "description": (str,),
    "version": (str,),
    "submitted_by": (str,),
    "submission_time": (int, float),
}
_EXPORT_AGAIN = "export again with `roadwork export RUN --out DIR`"
_EXPORT_FOLDED = f"{_EXPORT_AGAIN}, which folds the calibration into such a head"
# Allowed rounding error of float32, relative for logits above 1.
_ROUNDING = 1e-5
_NOISE_IMAGES = 8
_TIMEOUT_S = 1800
_LOADING_PROBLEMS = ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs")

# Status, found value, allowed values, and fix.
_Finding = tuple[str, str, str, str]


@dataclass(frozen=True)
class ContractCheck:
    """A check: its status (`ok`, `warning`, `failed`, `skipped`), the found value, the allowed values, and the fix."""

    name: str
    status: str
    found: str
    allowed: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


# Files


def check_files(folder: Path) -> Iterator[ContractCheck]:
    """The checks of the folder's files; an unreadable file fails its check."""
    for name, check in _CHECKS.items():
        try:
            status, found, allowed, fix = check(folder)
        except DataError as error:
            status, found, allowed, fix = FAILED, str(error), "a file that can be read", _EXPORT_AGAIN
        yield ContractCheck(name, status, found, allowed, fix)


def _status(is_right: bool) -> str:
    return OK if is_right else FAILED


def _model_type(folder: Path) -> _Finding:
    found = read_json(folder, CONFIG_FILE).get("model_type")
    fix = "train a network of one of these types: transformers 4.45.2 cannot load others"
    if found == PooledConfig.model_type:
        inner = read_json(folder, CONFIG_FILE).get("vision_config", {}).get("model_type")
        found = f"{found} (roadwork's own class) with a {inner} backbone"
        if inner in STREETVISION_MODEL_TYPES:
            fix = "train with model.pooling=auto: transformers has no class for this pooling"
    elif found == EnsembleConfig.model_type:
        fix = "export the ensemble's runs one by one with `roadwork export ENSEMBLE --members --out DIR`"
    return _status(found in STREETVISION_MODEL_TYPES), str(found), ", ".join(STREETVISION_MODEL_TYPES), fix


def _processor(folder: Path) -> _Finding:
    content = read_json(folder, PROCESSOR_FILE)
    found = content.get("image_processor_type", content.get("feature_extractor_type"))
    fix = f"{_EXPORT_AGAIN}: with use_fast=True, 4.45.2 has no fast version of other processors"
    return _status(found == PROCESSOR_TYPE), str(found), PROCESSOR_TYPE, fix


def _problem_type(folder: Path) -> _Finding:
    found = read_json(folder, CONFIG_FILE).get("problem_type")
    fix = f'set "problem_type": null in {CONFIG_FILE}: for single_label_classification, 4.45.2 applies a sigmoid'
    return _status(found is None), json.dumps(found), "null", fix


def _labels(folder: Path) -> _Finding:
    config = read_json(folder, CONFIG_FILE)
    forward, backward = config.get("id2label"), config.get("label2id")
    expected = {str(index): label for index, label in ID2LABEL.items()}
    is_right = forward == expected and backward == {label: index for index, label in ID2LABEL.items()}
    found = f"id2label {json.dumps(forward)}, label2id {json.dumps(backward)}"
    fix = f"{_EXPORT_AGAIN}: the consumer finds the score by the label's exact name"
    return _status(is_right), found, " and ".join(f"{index}: {label}" for index, label in expected.items()), fix


def _remote_code(folder: Path) -> _Finding:
    files = [name for name in (CONFIG_FILE, PROCESSOR_FILE) if (folder / name).is_file()]
    where = [name for name in files if "auto_map" in read_json(folder, name)]
    where = [f"auto_map in {name}" for name in where] + sorted(path.name for path in folder.rglob("*.py"))
    fix = "remove it: a miner does not run code from the folder"
    return _status(not where), ", ".join(where) or "none", "no auto_map and no Python file", fix


def _weights(folder: Path) -> _Finding:
    path = folder / WEIGHTS_FILE
    fix = f"{_EXPORT_AGAIN} --format hf"
    allowed = f"{WEIGHTS_FILE}, float32"
    if not path.is_file():
        others = sorted(found.name for found in folder.glob("*") if found.suffix in {".bin", ".onnx", ".pt", ".ckpt"})
        return FAILED, f"no {WEIGHTS_FILE}" + (f", only {', '.join(others)}" if others else ""), allowed, fix
    try:
        with safe_open(path, framework="pt") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (SafetensorError, OSError) as error:
        return FAILED, f"{WEIGHTS_FILE} cannot be read: {error}", allowed, fix
    config = read_json(folder, CONFIG_FILE)
    declared = {config[key] for key in ("dtype", "torch_dtype") if key in config} or {"nothing"}
    # I64 tensors are counters, such as those of BatchNorm.
    is_right = types - {"I64"} == {"F32"} and declared <= {"float32", "nothing"}
    found = f"{path.stat().st_size / 1e6:.1f} MB of {', '.join(sorted(types))}; {CONFIG_FILE} has {', '.join(declared)}"
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
    allowed = f"{', '.join(_CARD_FIELDS)}; version like 1.0.0, submission_time in seconds, not in the future"
    if wrong:
        shown = ", ".join(f"{name} {json.dumps(card.get(name))}" for name in wrong)
        return FAILED, shown, allowed, f"fix these fields of {NATIX_CARD_FILE}"
    if card["submitted_by"] == HOTKEY_PLACEHOLDER:
        fix = f"before publishing, put your wallet's hotkey into submitted_by of {NATIX_CARD_FILE}"
        return WARNING, f"all fields, but submitted_by is still {HOTKEY_PLACEHOLDER}", allowed, fix
    return OK, "all fields", allowed, ""


_CHECKS: dict[str, Callable[[Path], _Finding]] = {
    "model type": _model_type,
    "image processor": _processor,
    "problem type": _problem_type,
    "labels": _labels,
    "no custom code": _remote_code,
    "weights": _weights,
    NATIX_CARD_FILE: _card,
}


# Outputs


def check_head(detector: Detector) -> ContractCheck:
    """Whether the logits are (-d / 2, d / 2). Noise images suffice, because the head has this form for any input."""
    size = detector.preprocessing.size
    noise = torch.randint(0, 256, (_NOISE_IMAGES, 3, size, size), generator=torch.Generator().manual_seed(0))
    logits = detector.logits(noise.to(torch.uint8)).double()
    sums = (logits.sum(1).abs() / logits.abs().amax(1).clamp(min=1)).max().item()
    return ContractCheck(
        "antisymmetric head",
        OK if sums <= _ROUNDING else FAILED,
        f"the two logits sum to at most {sums:.1e} (relative for logits above 1)",
        f"{_ROUNDING:.0e}: one logit is the negative of the other, so that softmax and sigmoid decide alike",
        _EXPORT_FOLDED,
    )


def check_sigmoid(logits: Tensor) -> ContractCheck:
    """Whether the softmax and the sigmoid of 4.45.2 give the same decisions for folded logits (N, 2)."""
    softmax = logits.double().softmax(1)[:, 1]
    sigmoid = logits.double()[:, 1].sigmoid()
    near = torch.maximum((softmax - 0.5).abs(), (sigmoid - 0.5).abs()) <= TIE
    n_changed = int((((softmax > 0.5) != (sigmoid > 0.5)) & ~near).sum())
    return ContractCheck(
        "softmax and sigmoid",
        FAILED if n_changed else OK,
        f"{n_changed} of {len(logits)} decisions differ",
        f"none, except for scores within {TIE:.0e} of 0.5",
        _EXPORT_FOLDED,
    )


def check_latency(seconds: np.ndarray, where: str) -> ContractCheck:
    """Whether calls with one 12-megapixel photo are fast enough; they took `seconds` (N,)."""
    return ContractCheck(
        f"latency, {where}",
        OK if seconds.max() <= MAX_LATENCY_S else FAILED,
        f"median {np.median(seconds):.2f} s, worst {seconds.max():.2f} s of {len(seconds)} calls with one photo of "
        "12 megapixels, on this machine's CPU",
        f"at most {MAX_LATENCY_S:g} s each",
        "train a smaller network or at a smaller data.img_size, or mine on a faster machine",
    )


def loading_failed(reason: str) -> ContractCheck:
    """A failed check that stands for those that could not run."""
    return ContractCheck("outputs", FAILED, reason, "a folder and photos that can be read", "fix the reported problem")


# Loading in the consumer's environment


@dataclass(frozen=True)
class ConsumerOutput:
    """The result of loading a folder in the consumer's environment.

    Attributes:
        versions: of Python and of the packages in `CONSUMER_VERSIONS`.
        error: why the folder or a photo failed; None without an error.
        model, processor: the chosen classes; empty if loading failed earlier.
        scores: (N,) scores of the label Roadwork; fewer after an error.
        seconds: (N,) time from file to score.
        misfits: missing or mismatched weights, which transformers initialises at random without an error.
        warnings: warnings of transformers.
    """

    versions: dict[str, str]
    error: str | None
    model: str
    processor: str
    scores: np.ndarray
    seconds: np.ndarray
    misfits: list[str]
    warnings: list[str]

    @property
    def transformers(self) -> str:
        """The version of transformers."""
        return self.versions["transformers"]


def run_consumer(python: Path, requests: Sequence[tuple[Path, Sequence[Path]]]) -> list[ConsumerOutput]:
    """The results of loading folders and scoring photos as a miner does, in one process of another interpreter.

    Args:
        python: an interpreter with transformers 4.45.2, torch, torchvision and Pillow.
        requests: folders, and the photos to score with each.

    Raises:
        ConfigError: the interpreter cannot be run.
        DataError: the process failed, or timed out.
    """
    requested = [{"folder": str(f.resolve()), "photos": [str(p.resolve()) for p in photos]} for f, photos in requests]
    try:
        done = subprocess.run(  # noqa: S603 -- the user names the interpreter
            [str(python), "-I", str(SCRIPT)],
            input=json.dumps(requested),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_TIMEOUT_S,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        content = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--consumer-python is {python}, which cannot be used ({error}). It must be a Python with transformers "
            f"{CONSUMER_TRANSFORMERS}; `make consumer` creates .venv-consumer/bin/python."
        ) from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{python} did not finish within {_TIMEOUT_S} s. Try fewer photos.") from None
    if content is None:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"{python} exited with {done.returncode}: {last}. It needs transformers {CONSUMER_TRANSFORMERS}, torch, "
            "torchvision and Pillow; `make consumer` creates such an environment in .venv-consumer."
        )
    return [_read_output(content["versions"], row) for row in content["folders"]]


def _read_output(versions: dict[str, str], row: dict[str, object]) -> ConsumerOutput:
    weights = row.get("weights", {})
    misfits = [f"{kind} {name}" for kind in _LOADING_PROBLEMS for name in weights.get(kind, [])]  # type: ignore[attr-defined]
    return ConsumerOutput(
        versions=versions,
        error=row["error"],  # type: ignore[arg-type]
        model=str(row.get("model", "")),
        processor=str(row.get("processor", "")),
        scores=np.array(row["scores"], dtype=np.float64),
        seconds=np.array(row["seconds"], dtype=np.float64),
        misfits=misfits,
        warnings=list(row["warnings"]),  # type: ignore[call-overload]
    )


def find_differences(versions: dict[str, str]) -> list[str]:
    """The versions that differ from the consumer's lock file, such as `torch 2.13.0 (locked: 2.6.0)`."""
    locked = CONSUMER_VERSIONS | {"python": " or ".join(CONSUMER_PYTHONS)}
    public = {name: versions[name].partition("+")[0] for name in locked}
    differs = {name: version != locked[name] for name, version in public.items()}
    differs["python"] = public["python"].rpartition(".")[0] not in CONSUMER_PYTHONS
    return [f"{name} {public[name]} (locked: {locked[name]})" for name in locked if differs[name]]


def check_environment(output: ConsumerOutput) -> ContractCheck:
    """Whether an environment like the miners' loaded the folder completely."""
    status, found = OK, f"{output.model} with {output.processor}, by transformers {output.transformers}"
    remarks = find_differences(output.versions) + output.warnings
    if remarks:
        status, found = WARNING, "; ".join([found, *remarks])
    if output.error or output.misfits:
        status, found = (
            FAILED,
            shorten(output.error or "", 300) or f"weights that do not fit: {', '.join(output.misfits[:5])}",
        )
    return ContractCheck(
        "the consumer's environment",
        status,
        found,
        f"loaded by transformers {CONSUMER_TRANSFORMERS} and the locked versions, with every weight, without a warning",
        "fix the reported problem, or use a Python with the locked versions (`make consumer`)",
    )
