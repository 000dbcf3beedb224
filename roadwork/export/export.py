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
from roadwork.core.errors import ConfigError
from roadwork.core.files import sha256_of, write_json
from roadwork.data.images import read_pixels, to_network_input
from roadwork.detector.detector import Detector
from roadwork.detector.folding import fold_calibration, read_calibration
from roadwork.detector.format import CARD_FILE, ExportFacts, Preprocessing
from roadwork.detector.networks import ONNX_FILE, WEIGHTS_FILE
from roadwork.evaluation.ensemble import AveragedNetworks, merge_members
from roadwork.evaluation.evaluate import check_weights_are_evaluated, load_best_model
from roadwork.evaluation.reference import REFERENCE_PHOTOS, write_reference
from roadwork.evaluation.seen_rows import TRAINING_ROWS_FILE, TrainingRows
from roadwork.export.folder import (
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
    compare_logits,
    compare_probabilities,
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
from roadwork.training.lora.apply import merge_adapter

FORMATS = ("hf", "onnx")

# The first inputs are noise, because outputs must also agree for inputs unlike any photo.
_NOISE_IMAGES = 3

# Number of inputs for the check of each step; the final check uses all scenes.
_CHECKED = 8


@dataclass(frozen=True)
class ExportSummary:
    """A summary of an export.

    Attributes:
        folder: the exported folder.
        format: `hf` or `onnx`.
        model_type: model type of the network in transformers.
        facts: the folded calibration; None if the run is not calibrated (T is 1, t is 0.5).
        parities: the comparisons, all passed.
        files: sizes in bytes by name.
    """

    folder: Path
    format: str
    model_type: str
    facts: ExportFacts | None
    parities: tuple[Parity, ...]
    files: dict[str, int]


def export_run(
    run: Path,
    out: Path,
    *,
    format: str,  # noqa: A002 -- the option's name
    training_rows: bool = False,
    reference_photos: int = REFERENCE_PHOTOS,
    training_places: bool = False,
) -> ExportSummary:
    """Writes the detector of a run into a folder; the run does not change.

    Args:
        run: the run's folder, or the link `latest`.
        out: the folder to write; an older export there is replaced.
        format: `hf` (model.safetensors) or `onnx` (model.onnx).
        training_rows: whether to store hashes of the training photos, so that `evaluate --on` can exclude them.
        reference_photos: the most training photos whose features are stored, to judge how familiar a batch is; 0: none.
        training_places: whether to store the places of the training photos on a coarse grid, for the same purpose.

    Raises:
        ConfigError: the format is unknown, or does not support the network.
        DataError: the run is incomplete or inconsistent, or `out` exists and is not an export.
        MissingExtraError: the format needs a package that is not installed.
        WiringError: the outputs of the export differ from those of the run.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format is {format!r}; allowed: {', '.join(FORMATS)}.")
    if format == "onnx":
        check_onnx_installed()
    check_target(out)
    source = Run.open(run)
    settings = to_settings(source.read_config())
    check_weights_are_evaluated(source)
    calibration = read_calibration(source)
    facts = calibration or ExportFacts()
    preprocessing = Preprocessing(settings.data.img_size, image_statistics(settings.model))
    rows = TrainingRows.of_run(source, settings) if training_rows else None
    scenes = draw_scenes()
    inputs = _network_inputs(scenes, preprocessing)
    network, own, parities = _load_folded(source, settings, facts, inputs)
    expected = probability(margin(own[_NOISE_IMAGES:]).numpy(), facts.temperature)
    with new_folder(out) as folder:
        if format == "hf":
            write_weights(network, folder)
        else:
            parities += write_onnx(network, folder, inputs, facts.temperature)
        write_config(network, folder, facts)
        write_json(folder / PROCESSOR_FILE, preprocessing.as_config())
        write_replay(folder, scenes, expected, facts.threshold)
        if rows is not None:
            rows.write(folder / TRAINING_ROWS_FILE, settings.privacy.coarsen_gps)
        run_facts = read_run_facts(source, is_calibrated=calibration is not None)
        _write_cards(folder, network, calibration, run_facts, format)
        detector = Detector.load(folder, device="cpu")
        parities.append(_compare_read_back(detector, scenes, expected))
        write_reference(source, folder, detector, run_facts.result, reference_photos, with_places=training_places)
    return ExportSummary(out, format, network.config.model_type, calibration, tuple(parities), file_sizes(out))


def _network_inputs(scenes: Sequence[bytes], preprocessing: Preprocessing) -> Tensor:
    """(N, 3, S, S) network inputs: noise, then the scenes."""
    size = preprocessing.size
    noise = torch.randint(
        256, (_NOISE_IMAGES, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    pixels = torch.stack([read_pixels(scene, size) for scene in scenes])
    return to_network_input(torch.cat([noise, pixels]), preprocessing.statistics)


def _load_folded(
    run: Run, settings: Settings, facts: ExportFacts, inputs: Tensor
) -> tuple[PreTrainedModel, Tensor, list[Parity]]:
    """The merged and folded network, the run's logits (N, 2) for `inputs`, and comparisons of both."""
    best = load_best_model(run.folder, settings)
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


def _compare_read_back(detector: Detector, scenes: Sequence[bytes], expected: np.ndarray) -> Parity:
    """Compares the written folder, loaded as users load it, with the run's own probabilities (N,)."""
    probabilities = np.array([prediction.probability for prediction in detector.predict_many(scenes)])
    return compare_probabilities("the folder, read back", probabilities, expected, detector.facts.threshold)


def export_members(
    ensemble: Path,
    out: Path,
    *,
    format: str,  # noqa: A002 -- as export_run
    training_rows: bool = False,
    reference_photos: int = REFERENCE_PHOTOS,
    training_places: bool = False,
) -> list[ExportSummary]:
    """Exports each run of an ensemble to `out`/member-1, `out`/member-2, ..., with the run's own calibration.

    Raises:
        ConfigError: the folder is not an ensemble; otherwise as `export_run`.
        DataError: as `export_run`.
    """
    if not is_ensemble(ensemble):
        raise ConfigError(f"--members needs an ensemble, but {ensemble} is a single run. Omit --members.")
    return [
        export_run(
            member.run.folder,
            out / f"member-{number}",
            format=format,
            training_rows=training_rows,
            reference_photos=reference_photos,
            training_places=training_places,
        )
        for number, member in enumerate(read_members(ensemble), start=1)
    ]
