"""Data and conditions of the GPS weighting experiment."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.utils.class_weight import compute_sample_weight
from transformers import PreTrainedModel

from roadwork.core.errors import ConfigError
from roadwork.data.dataset import UnreadableLedger
from roadwork.data.deployment import find_deployment
from roadwork.data.features import compute_features
from roadwork.data.open import open_dataset
from roadwork.data.samplers.build import build_gps_sampler
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.data.samplers.stratified_sampler import Strata, draw_systematic
from roadwork.data.table import SampleTable
from roadwork.experiments.heads import HeadSettings
from roadwork.metrics.intervals import effective_groups
from roadwork.models.build import build_model
from roadwork.settings import SPLIT_NAMES, GpsSamplingSettings, Settings

logger = logging.getLogger(__name__)

UNIFORM, GPS, PLACEBO = "uniform", "gps", "placebo"

# Draws uniformly in the first half of its steps; in the second half, draws by GPS and trains the last layer only.
LAST_LAYER = "gps_last_layer"
CONDITIONS = (UNIFORM, "class_balanced", GPS, PLACEBO, LAST_LAYER, "gps_half_dose")
FACTS = ("effective_rows", "effective_groups", "weight_label_correlation", "roadwork_share", "roadwork_share_drawn")

# Rows of val_test are in no fold; neither their labels nor their features are used.
DEVELOPMENT_SPLITS = SPLIT_NAMES[:3]


@dataclass
class TrainingRows:
    """The training rows of a head, as the sampler reads them.

    Attributes:
        gps: (n, 2) latitude, longitude in degrees, NaN where missing.
        labels: (n,) 0 or 1.
        groups: (n,) names.
    """

    gps: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def weigh_conditions(
    rows: TrainingRows, centers_deg: np.ndarray, sampling: GpsSamplingSettings, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The weights (n,) of the training rows in each of `CONDITIONS`; GPS weights come from the sampler itself.

    Args:
        rows: n training rows.
        centers_deg: (K, 2) latitude, longitude in degrees of the deployment's cluster centres.
        sampling: the sampler's configuration.
        rng: for the placebo.
    """

    def weigh_by_gps(rows: TrainingRows, dose: float = 1.0) -> np.ndarray:
        dosed = replace(
            sampling,
            n_clusters=len(centers_deg),
            weight_brackets=[[low, high, float(weight) ** dose] for low, high, weight in sampling.weight_brackets],
            missing_weight=sampling.missing_weight**dose,
        )
        return build_gps_sampler(dosed, rows, centers_deg).weights

    by_gps = weigh_by_gps(rows)
    return {
        UNIFORM: np.ones(len(rows)),
        "class_balanced": compute_sample_weight("balanced", rows.labels),
        GPS: by_gps,
        PLACEBO: weigh_by_gps(shuffle_positions(rows, rng)),
        LAST_LAYER: by_gps,
        "gps_half_dose": weigh_by_gps(rows, dose=0.5),
    }


def shuffle_positions(rows: TrainingRows, rng: np.random.Generator) -> TrainingRows:
    """The rows with positions shuffled between groups, so that rows of a group still have similar weights.

    Groups are concatenated in one random order and their positions in another; the first row takes the first position.
    All positions are kept, and with them all weights. If group sizes differ, the positions of one group may go to part
    of a group or to several.
    """
    _, codes = np.unique(rows.groups, return_inverse=True)
    n_groups = codes.max() + 1
    takers, givers = (np.argsort(rng.permutation(n_groups)[codes], kind="stable") for _ in range(2))
    gps = np.empty_like(rows.gps)
    gps[takers] = rows.gps[givers]
    return replace(rows, gps=gps)


def draw_rows(weights: np.ndarray, n_draws: int, seed: list[int]) -> np.ndarray:
    """(n_draws,) int64 row numbers of consecutive epochs, each drawn systematically by weight, like the sampler's.

    Args:
        weights: (n,) with few distinct values.
        n_draws: the number of rows to draw.
        seed: numbers >= 0; the epoch is appended.
    """
    values, index = np.unique(weights, return_inverse=True)
    classes = Strata.from_index(index, values)
    n_epochs = -(-n_draws // len(weights))
    epochs = [draw_systematic(classes, np.random.default_rng([*seed, epoch])) for epoch in range(n_epochs)]
    return np.concatenate(epochs)[:n_draws].astype(np.int64)


def describe_weights(weights: np.ndarray, rows: TrainingRows) -> dict[str, float]:
    """The effect of weights (n,) on the training rows: one value for each of `FACTS`.

    Effective sample sizes are Kish's, (sum w)^2 / sum w^2, of row weights and of summed group weights. The correlation
    is Pearson's, 0 if all weights or labels are equal. The share drawn is the expected share of Roadwork in a batch.
    """
    _, codes = np.unique(rows.groups, return_inverse=True)
    is_constant = np.ptp(weights) == 0 or np.ptp(rows.labels) == 0
    values = (
        effective_groups(weights),
        effective_groups(np.bincount(codes, weights)),
        0.0 if is_constant else float(np.corrcoef(weights, rows.labels)[0, 1]),
        float(rows.labels.mean()),
        float(weights @ rows.labels / weights.sum()),
    )
    return dict(zip(FACTS, values, strict=True))


@dataclass(frozen=True)
class GpsExperiment:
    """The inputs of the experiment.

    Attributes:
        table: the N rows of all splits except val_test.
        groups: (N,) names; rows of one group are never separated.
        features: (N, D) float32, from a frozen backbone.
        target_deg: (M, 2) latitude, longitude in degrees of the deployment.
        target_source: a description of where the target comes from.
        sampling: the sampler's configuration.
        heads: how heads are trained.
        n_folds: of each seed's cross-validation.
        backbone: identifies the network of the features.
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
        """SHA-256 of everything that a seed's result depends on: these inputs, and `code` for the code version."""
        digest = hashlib.sha256(repr((*code, self.sampling, self.heads, self.n_folds)).encode())
        for text in (self.table.ids, self.groups):
            digest.update("\x1f".join(map(str, text)).encode())
        for values in (self.table.labels, self.table.gps, self.features, self.target_deg):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def prepare_experiment(settings: Settings, heads: HeadSettings, n_folds: int) -> GpsExperiment:
    """Reads the data and computes the features of a configuration.

    Raises:
        ConfigError, DataError, SplitError: the configuration or the data cannot be used.
    """
    if settings.data.extra:
        raise ConfigError(
            f"data.extra adds {', '.join(extra.dataset_name for extra in settings.data.extra)}, but the GPS weighting "
            "experiment draws by the weights of its conditions only, without shares. Set data.extra=[]."
        )
    dataset = open_dataset(settings)
    table, groups, split_names = dataset.table, dataset.groups, dataset.split_names
    for note in (*table.notes, *groups.notes):
        logger.info(note)
    target_deg, target_source = find_deployment(settings.data, table, split_names)
    if not settings.model.pretrained:
        logger.warning(
            "model.pretrained is false: the frozen features come from RANDOM weights of %s and are weak, so the result "
            "says little about a trained network. Set a pretrained backbone, such as model=dinov2_base.",
            settings.model.name,
        )
    rows = np.flatnonzero(np.isin(split_names, DEVELOPMENT_SPLITS) & ~groups.set_aside)
    ledger = UnreadableLedger(table, settings.data.max_unreadable)
    features = compute_features(_build_network(settings), settings, ledger, dataset.source, rows)
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
    """The configured network; without pretrained weights, `training.seed` seeds its random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return build_model(settings.model, settings.data.img_size)


def build_sampler(experiment: GpsExperiment) -> GPSWeightedSampler:
    """The configured sampler on all rows of the experiment; all folds use its clusters and distances."""
    rows = TrainingRows(experiment.table.gps, experiment.table.labels, experiment.groups)
    return build_gps_sampler(experiment.sampling, rows, experiment.target_deg)
