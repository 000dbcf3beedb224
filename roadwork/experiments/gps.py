"""What the experiment on GPS weighting runs on."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from roadwork.data.dataset import UnreadableLedger
from roadwork.data.features import compute_features
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.data.source import find_groups, find_splits, read_dataset
from roadwork.data.table import SampleTable
from roadwork.data.targets import find_deployment
from roadwork.errors import ConfigError
from roadwork.experiments.arms import TrainingRows
from roadwork.experiments.heads import HeadSettings
from roadwork.models.build import build_model
from roadwork.settings import SPLIT_NAMES, GpsSamplingSettings, Settings

logger = logging.getLogger(__name__)

# val_test stays closed: its rows are in no fold, and neither their labels nor their features are used.
DEVELOPMENT_SPLITS = SPLIT_NAMES[:3]


@dataclass(frozen=True)
class GpsExperiment:
    """What the experiment runs on.

    Attributes:
        table: the N rows of all splits but val_test.
        groups: (N,) names; rows of one group are never separated.
        features: (N, D) float32, of a frozen backbone.
        target_deg: (M, 2) latitude, longitude in degrees of the deployment.
        target_source: where the target comes from, in words.
        sampling: the sampler's configuration.
        heads: how heads are trained.
        n_folds: of each seed's cross-validation.
        backbone: identifies what the features come from.
    """

    table: SampleTable
    groups: np.ndarray
    features: np.ndarray
    target_deg: np.ndarray
    target_source: str
    sampling: GpsSamplingSettings
    heads: HeadSettings
    n_folds: int
    backbone: str = ""

    def key(self, *code: object) -> str:
        """SHA-256 over all that a seed's result depends on: these inputs, and what `code` says of the code."""
        digest = hashlib.sha256(repr((*code, self.sampling, self.heads, self.n_folds)).encode())
        for text in (self.table.ids, self.groups):
            digest.update("\x1f".join(map(str, text)).encode())
        for values in (self.table.labels, self.table.gps, self.features, self.target_deg):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def prepare_experiment(settings: Settings, heads: HeadSettings, n_folds: int) -> GpsExperiment:
    """Reads the data and computes the features that a configuration names.

    Raises:
        ConfigError, DataError, SplitError: the configuration or the data cannot be used.
    """
    if settings.data.extra:
        raise ConfigError(
            f"data.extra mixes in {', '.join(extra.dataset_name for extra in settings.data.extra)}. The experiment on "
            "GPS weighting draws by its arms' weights alone, without shares: set data.extra=[]."
        )
    table, source = read_dataset(settings.data)
    groups = find_groups(settings.data, table, source)
    for note in (*table.notes, *groups.notes):
        logger.info(note)
    split_names = find_splits(settings, table, groups).names_by_row(table)
    target_deg, target_source = find_deployment(settings.data, table, split_names)
    if not settings.model.pretrained:
        logger.warning(
            "model.pretrained is false: the frozen features come from RANDOM weights of %s and are weak, so the "
            "experiment says little of a trained network. Name a pretrained backbone, such as model=dinov2_base.",
            settings.model.name,
        )
    rows = np.flatnonzero(np.isin(split_names, DEVELOPMENT_SPLITS) & ~groups.set_aside)
    ledger = UnreadableLedger(table, settings.data.max_unreadable)
    features = compute_features(_build_network(settings), settings, ledger, source, rows)
    return GpsExperiment(
        table.take(features.rows),
        groups.names[features.rows],
        features.values,
        target_deg,
        target_source,
        settings.data.gps_sampling,
        heads,
        n_folds,
        features.backbone,
    )


def _build_network(settings: Settings) -> PreTrainedModel:
    """The configured network; without pretrained weights it is random, drawn from `training.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return build_model(settings.model, settings.data.img_size)


def build_sampler(experiment: GpsExperiment) -> GPSWeightedSampler:
    """The configured sampler on all rows of the experiment: its clusters and distances serve every fold."""
    sampling = experiment.sampling
    return GPSWeightedSampler(
        TrainingRows(experiment.table.gps, experiment.table.labels, experiment.groups),
        experiment.target_deg,
        n_clusters=sampling.n_clusters,
        weight_brackets=sampling.weight_brackets,
        random_seed=sampling.random_seed,
        missing_weight=sampling.missing_weight,
        balance_labels=sampling.balance_labels,
    )
