"""From a configuration to the report of the experiment on GPS weighting."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from roadwork.config import to_settings
from roadwork.data.reach import unreachable_targets
from roadwork.data.utils.privacy import coarsen
from roadwork.experiments.gps import GpsExperiment, build_sampler, prepare_experiment
from roadwork.experiments.gps_analysis import analyse
from roadwork.experiments.gps_report import write_report
from roadwork.experiments.gps_seeds import run_seeds
from roadwork.experiments.gps_verdict import decide_verdict
from roadwork.experiments.heads import HeadSettings
from roadwork.runs import create_run_folder, read_manifest, write_manifest
from roadwork.settings import Settings


def run_gps_experiment(
    cfg: DictConfig, heads: HeadSettings, *, n_folds: int, n_seeds: int, command: str
) -> tuple[Path, dict[str, Any]]:
    """Runs the experiment and writes its report to `outputs/<experiment>/gps/<UTC time>/`.

    Args:
        cfg: the composed configuration.
        heads: how heads are trained.
        n_folds: of each cross-validation.
        n_seeds: seeds 0 to n_seeds - 1.
        command: that makes the report again, for readers.

    Returns:
        The folder, and what `gps_experiment.json` in it holds.
    """
    settings = to_settings(cfg)
    experiment = prepare_experiment(settings, heads, n_folds)
    # The runs of `roadwork train` keep their own `latest` beside this folder.
    name = f"{settings.experiment}/gps"
    kept_seeds = Path(settings.output_dir) / name / "seeds"
    report = report_experiment(experiment, settings, range(n_seeds), kept_seeds)
    folder = create_run_folder(Path(settings.output_dir), name)
    write_manifest(folder, data_fingerprint=experiment.table.fingerprint(), command=command)
    report |= {
        "command": command,
        "config": _jsonable(OmegaConf.to_container(cfg, resolve=True)),
        "versions": read_manifest(folder)["versions"],
    }
    write_report(folder, report)
    write_manifest(folder)
    return folder, report


def report_experiment(experiment: GpsExperiment, settings: Settings, seeds: range, kept_seeds: Path) -> dict[str, Any]:
    """Trains the arms over the seeds, and gives all figures with the verdict, ready for JSON."""
    sampler = build_sampler(experiment)
    results = run_seeds(experiment, sampler.cluster_centers, seeds, kept_seeds)
    evaluation = settings.evaluation
    figures = analyse(experiment, sampler, results, draws=evaluation.bootstrap_draws, seed=evaluation.seed)
    decimals = settings.privacy.coarsen_gps
    for arm in figures["arms"].values():
        if arm["worst_cell"]:
            arm["worst_cell"]["center_deg"] = coarsen(np.array(arm["worst_cell"]["center_deg"]), decimals).tolist()
    model = settings.model
    weights = "pretrained" if model.pretrained else f"random weights of seed {settings.training.seed}"
    return {
        "verdict": decide_verdict(figures),
        "unreachable": unreachable_targets(coarsen(experiment.target_deg, decimals), experiment.table.gps),
        "target_source": experiment.target_source,
        "model": f"{model.name}, {weights}, frozen, {settings.data.img_size} px",
        "pretrained": model.pretrained,
        "backbone_sha256": experiment.backbone,
        "folds": experiment.n_folds,
        "heads": asdict(experiment.heads),
        **figures,
    }


def _jsonable(value: Any) -> Any:
    """The value with infinite numbers as text, since JSON has none."""
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_jsonable(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
