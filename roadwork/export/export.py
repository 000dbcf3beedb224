"""Exports a run: load, merge, fold, write, read back, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from roadwork.config import to_settings
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.data.images import read_pixels, to_network_input
from roadwork.detector.detector import Detector
from roadwork.detector.folding import fold_calibration, read_calibration
from roadwork.detector.format import ExportFacts, Preprocessing
from roadwork.detector.networks import ONNX_FILE, WEIGHTS_FILE
from roadwork.evaluation.ensemble import AveragedNetworks, merge_members
from roadwork.evaluation.evaluate import load_best_model
from roadwork.export.folder import (
    CARD_FILE,
    NATIX_CARD_FILE,
    check_target,
    file_sizes,
    new_folder,
    write_config,
    write_weights,
)
from roadwork.export.model_card import build_card, build_natix_card
from roadwork.export.onnx import check_onnx_installed, write_onnx
from roadwork.export.parity import (
    Parity,
    compare_answers,
    compare_logits,
    network_logits,
)
from roadwork.export.replay import draw_scenes, write_replay
from roadwork.export.run_facts import RunFacts, read_run_facts
from roadwork.metrics.decision import fold, margin, probability
from roadwork.models.classifier import as_own_class
from roadwork.models.processor import PROCESSOR_FILE, image_statistics
from roadwork.runs.ensemble_record import is_ensemble, read_members
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT
from roadwork.training.lora.apply import merge_adapter

FORMATS = ("hf", "onnx")

# Before the scenes: what no photo looks like must come through unchanged, too.
_NOISE_PICTURES = 3

# Noise and scenes on which each step is checked; all scenes are looked at when the folder is read back.
_CHECKED = 8


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    Attributes:
        folder: the export.
        format: `hf` or `onnx`.
        model_type: of the network, as transformers names it.
        facts: what is folded; None where the run is not calibrated, so that T is 1 and t 0.5.
        parities: what was checked.
        files: bytes by name.
    """

    folder: Path
    format: str
    model_type: str
    facts: ExportFacts | None
    parities: tuple[Parity, ...]
    files: dict[str, int]


def export_run(run: Path, out: Path, *, format: str) -> ExportSummary:  # noqa: A002 -- the option's name
    """Writes the detector of a run into a folder; the run itself is not changed.

    Args:
        run: its folder, or the link `latest`.
        out: the folder to make; an older export there is replaced.
        format: `hf` (model.safetensors) or `onnx` (model.onnx).

    Raises:
        ConfigError: the format is unknown, or the network cannot be had in it.
        DataError: the run lacks something or does not fit together, or `out` is something else than an export.
        MissingExtraError: the format needs a package that is not installed.
        WiringError: the detector would not answer as the run does.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format is {format!r}; allowed: {', '.join(FORMATS)}.")
    if format == "onnx":
        check_onnx_installed()
    check_target(out)
    run = Run.open(run).folder
    settings = to_settings(Run(run).read_config())
    _check_weights_are_judged(run)
    calibration = read_calibration(run)
    facts = calibration or ExportFacts()
    preprocessing = Preprocessing(settings.data.img_size, image_statistics(settings.model))
    scenes = draw_scenes()
    inputs = _network_inputs(scenes, preprocessing)
    network, own, parities = _load_folded(run, settings, facts, inputs)
    expected = probability(margin(own[_NOISE_PICTURES:]).numpy(), facts.temperature)
    with new_folder(out) as folder:
        if format == "hf":
            write_weights(network, folder)
        else:
            parities += write_onnx(network, folder, inputs, facts.temperature)
        write_config(network, folder, facts)
        write_json(folder / PROCESSOR_FILE, preprocessing.as_config())
        write_replay(folder, scenes, expected, facts.threshold)
        _write_cards(folder, network, calibration, read_run_facts(run, settings, calibration), format)
        parities.append(_read_back(folder, scenes, expected))
    return ExportSummary(out, format, network.config.model_type, calibration, tuple(parities), file_sizes(out))


def _check_weights_are_judged(run: Path) -> None:
    """A run that was resumed after its evaluation has other weights than its figures, temperature and threshold."""
    judged = Run(run).read_results().get(TEST_SPLIT, {}).get("checkpoint_sha256")
    path = Run(run).best_checkpoint
    if judged is not None and path.is_file() and sha256_of(path) != judged:
        raise DataError(
            f"{path} is not what `roadwork evaluate` judged: the run has been trained on since. Evaluate and calibrate "
            "it again, then export."
        )


def _network_inputs(scenes: Sequence[bytes], preprocessing: Preprocessing) -> Tensor:
    """(N, 3, S, S) what a network takes: noise, then the scenes."""
    size = preprocessing.size
    noise = torch.randint(
        256, (_NOISE_PICTURES, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    pixels = torch.stack([read_pixels(scene, size) for scene in scenes])
    return to_network_input(torch.cat([noise, pixels]), preprocessing.statistics)


def _load_folded(
    run: Path, settings: Settings, facts: ExportFacts, inputs: Tensor
) -> tuple[PreTrainedModel, Tensor, list[Parity]]:
    """The network merged and folded, the run's own logits (N, 2) for `inputs`, and how near the former comes."""
    best = load_best_model(run, settings)
    own = network_logits(best, inputs)
    checked, own_checked = inputs[:_CHECKED], own[:_CHECKED]
    parities = []
    adapter = settings.training.adapter
    if isinstance(best, AveragedNetworks):
        network, what = merge_members(best), f"{len(best.members)} networks in one"
    else:
        network, what = merge_adapter(best), f"{adapter} merged"
    if adapter != "none" or isinstance(best, AveragedNetworks):
        parities.append(compare_logits(what, network_logits(network, checked), own_checked))
    fold_calibration(network, facts.temperature, facts.threshold)
    network = as_own_class(network)
    folded, expected = network_logits(network, checked), fold(own_checked, facts.temperature, facts.threshold)
    parities.append(compare_logits("calibration folded", folded, expected, facts.temperature))
    return network, own, parities


def _write_cards(
    folder: Path, network: PreTrainedModel, calibration: ExportFacts | None, run: RunFacts, form: str
) -> None:
    weights = sha256_of(folder / (WEIGHTS_FILE if form == "hf" else ONNX_FILE))
    name = f"roadwork-{network.config.model_type}-{weights[:8]}"
    (folder / CARD_FILE).write_text(build_card(name, network, calibration, run, form), encoding="utf-8")
    write_json(folder / NATIX_CARD_FILE, build_natix_card(name, type(network).__name__, run))


def _read_back(folder: Path, scenes: Sequence[bytes], expected: np.ndarray) -> Parity:
    """Holds the written folder, as a user will load it, against the run's own answers (N,)."""
    detector = Detector.load(folder, device="cpu")
    probabilities = np.array([prediction.probability for prediction in detector.predict_many(scenes)])
    return compare_answers("the folder, read back", probabilities, expected, detector.facts.threshold)


def export_members(ensemble: Path, out: Path, *, format: str) -> list[ExportSummary]:  # noqa: A002 -- as export_run
    """Exports each run of an ensemble to `out`/member-1, `out`/member-2, ..., with the run's own calibration.

    Raises:
        ConfigError: the folder is a run's and no ensemble's; otherwise as `export_run`.
        DataError: as `export_run`.
    """
    if not is_ensemble(ensemble):
        raise ConfigError(f"--members is for an ensemble, and {ensemble} is one run. Leave it out.")
    return [
        export_run(member.folder, out / f"member-{number}", format=format)
        for number, member in enumerate(read_members(ensemble), start=1)
    ]
