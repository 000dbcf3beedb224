"""Loggers from the configuration: a real CSV logger, and fakes of wandb and MLflow."""

import csv
import inspect
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from fixtures.tiny_fits import TinyFits
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from roadwork.config import to_settings
from roadwork.core.errors import ConfigError, MissingExtraError
from roadwork.runs.run import Run
from roadwork.settings import Settings, TrackingSettings
from roadwork.training.loggers import LOGGERS, RunMetadataCallback, build_loggers, check_loggers

WIRING = [
    {"wire": "augmentation (none)", "observed": "0% differ", "works": True, "fix": "x"},
    {"wire": "sampler's next epoch", "observed": "40 draws", "works": True, "fix": "x"},
]


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    return TinyFits(folder, "tracking.loggers={csv: {flush_logs_every_n_steps: 1}}", "training.epochs=1")


def test_csv_logger_gets_metadata_and_metrics(fits):
    manifests = []

    class ReadManifest(Callback):
        def on_train_start(self, trainer, pl_module):
            manifests.append(json.loads((fits.latest() / "manifest.json").read_text()))

    trainer = fits.trainer()
    trainer.callbacks.append(ReadManifest())
    folder = trainer.fit(fits.datamodule, wiring=WIRING)
    assert manifests[0]["wiring"] == WIRING  # an interrupted run has it too
    facts = yaml.safe_load((folder / "csv" / "hparams.yaml").read_text())
    manifest = Run(folder).read_manifest()
    assert facts["data_fingerprint"] == manifest["data_fingerprint"] == fits.datamodule.table.fingerprint()
    assert facts["git_revision"] == manifest["git_revision"]
    assert facts["run_folder"] == str(folder)
    assert facts["wiring"] == {"augmentation_none": "works: 0% differ", "sampler_s_next_epoch": "works: 40 draws"}
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert facts["training"] == written["training"]
    assert facts["data"]["root"] == written["data"]["root"]
    with (folder / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (best,) = [float(row["best_val_select_mcc"]) for row in rows if row["best_val_select_mcc"]]
    assert best == pytest.approx(trainer.mcc_callback.best_mcc)
    assert [row["val_select/mcc"] for row in rows if row["val_select/mcc"]]
    assert list((folder / "tensorboard").glob("events.*"))  # always


def stand_in(monkeypatch, name, **content):
    """A module that import finds like an installed package."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def wandb(monkeypatch):
    """Records the calls of wandb."""
    calls = []
    config = SimpleNamespace(update=lambda params, **options: calls.append(("config", params)))

    class Run:
        id, name, config_, sweep_id = "id", "name", config, None

        def log(self, metrics, step=None):
            calls.append(("log", dict(metrics)))

        def define_metric(self, *arguments, **options):
            pass

    Run.config = config

    def init(entity=None, project=None, tags=None, settings=None, **options):
        calls.append(("init", {"entity": entity, "project": project, "tags": tags} | options))
        return Run()

    stand_in(monkeypatch, "wandb", init=init, run=None)
    stand_in(monkeypatch, "wandb.sdk")
    stand_in(monkeypatch, "wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {}))
    stand_in(monkeypatch, "wandb.wandb_run", Run=Run)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return calls


@pytest.fixture
def mlflow(monkeypatch):
    """Records the calls of MLflow, and refuses names as its server does."""
    calls = []

    class Client:
        def __init__(self, uri):
            calls.append(("client", uri))

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="7", lifecycle_stage="active", name=name)

        def create_run(self, experiment_id, tags):
            calls.append(("run", experiment_id, tags))
            return SimpleNamespace(info=SimpleNamespace(run_id="r", experiment_id=experiment_id))

        def log_batch(self, run_id, params=(), metrics=(), **options):
            for param in params:
                assert set(param["key"]) <= set(
                    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /"
                ), param
            calls.append(("batch", [*params], [*metrics]))

    stand_in(monkeypatch, "mlflow", set_tracking_uri=lambda uri: None)
    stand_in(monkeypatch, "mlflow.entities", Param=dict, Metric=dict)
    stand_in(monkeypatch, "mlflow.tracking", MlflowClient=Client)
    stand_in(monkeypatch, "mlflow.tracking.context")
    stand_in(monkeypatch, "mlflow.tracking.context.registry", resolve_tags=lambda tags: tags)
    stand_in(monkeypatch, "mlflow.utils")
    stand_in(monkeypatch, "mlflow.utils.mlflow_tags", MLFLOW_RUN_NAME="mlflow.runName")
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_SYNCHRONOUS_AVAILABLE", False)
    return calls


def run_loggers(tmp_path, fits, **loggers):
    """Builds a run's loggers, and calls both hooks of RunMetadataCallback."""
    folder = tmp_path / "20261123T000000Z"
    folder.mkdir()
    manifest = {"data_fingerprint": "f" * 8, "git_revision": "abc", "wiring": WIRING}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    built = build_loggers(Settings(experiment="site/a", tracking=TrackingSettings(loggers)), folder)
    callback = RunMetadataCallback(fits.datamodule.cfg, folder, SimpleNamespace(best_mcc=0.875))
    trainer = SimpleNamespace(loggers=built, global_step=12)
    callback.on_fit_start(trainer, None)
    callback.on_train_end(trainer, None)
    return built, folder


def test_wandb_gets_metadata_and_metrics(tmp_path, fits, wandb):
    built, folder = run_loggers(
        tmp_path, fits, wandb={"project": "p", "entity": "team", "offline": True, "tags": ["a"]}
    )
    assert [type(logger) for logger in built] == [TensorBoardLogger, WandbLogger]
    (_, init), (_, config), (_, metrics) = wandb
    assert (init["project"], init["entity"], init["tags"]) == ("p", "team", ["a"])
    # No slash, and equal in a resumed run, so wandb continues it.
    assert init["id"] == init["name"] == "site-a-20261123T000000Z"
    assert (init["dir"], init["resume"]) == (str(folder), "allow")
    assert config["wiring"]["sampler_s_next_epoch"] == "works: 40 draws"
    assert config["git_revision"] == "abc"
    assert metrics["best_val_select_mcc"] == 0.875


def test_mlflow_gets_metadata_and_metrics(tmp_path, fits, mlflow):
    _, folder = run_loggers(tmp_path, fits, mlflow={"tracking_uri": "file:elsewhere"})
    assert mlflow[0] == ("client", "file:elsewhere")
    assert mlflow[1][2]["mlflow.runName"] == "site-a-20261123T000000Z"
    params = {param["key"]: param["value"] for _, batch, _ in mlflow[2:] for param in batch}
    assert params["data_fingerprint"] == "f" * 8
    assert params["run_folder"] == str(folder)
    assert params["training/lr"] == "0.01"
    assert params["wiring/augmentation_none"] == "works: 0% differ"
    metrics = [metric for _, _, batch in mlflow[2:] for metric in batch]
    assert [(m["key"], m["value"], m["step"]) for m in metrics] == [("best_val_select_mcc", 0.875, 12)]


def test_only_rank_0_logs(tmp_path, fits, wandb, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    run_loggers(tmp_path, fits, wandb={}, csv={})
    assert wandb == []
    assert not list(tmp_path.rglob("hparams.yaml"))


def test_logger_arguments_match_their_class():
    """The arguments that roadwork sets itself exist in Lightning's signatures."""
    for kind, names in (
        (WandbLogger, {"save_dir", "name", "id"}),
        (MLFlowLogger, {"experiment_name", "run_name"}),
        (CSVLogger, {"save_dir", "name", "version"}),
    ):
        assert names <= inspect.signature(kind.__init__).parameters.keys()
    assert set(LOGGERS) == {"wandb", "mlflow", "comet", "csv"}


@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        ({"wandbb": {}}, r"'wandbb'.*wandb, mlflow, comet, csv.*'wandb'"),
        (
            {"csv": {"flush_log_every_n_steps": 1}},
            r"csv\.flush_log_every_n_steps.*CSVLogger.*'flush_logs",
        ),
        ({"csv": "yes"}, r"tracking\.loggers\.csv.*'yes'"),
    ],
)
def test_invalid_loggers_are_errors(loggers, message):
    with pytest.raises(ConfigError, match=message):
        check_loggers(TrackingSettings(loggers))


def test_unknown_wandb_argument_is_an_error(wandb):
    check_loggers(TrackingSettings({"wandb": {"entity": "team", "project": "p"}}))
    with pytest.raises(ConfigError, match=r"wandb\.entitty.*'entity'"):
        check_loggers(TrackingSettings({"wandb": {"entitty": "team"}}))


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("comet", "comet-ml")])
def test_missing_logger_package_is_an_error(monkeypatch, name, package):
    monkeypatch.setattr("roadwork.training.loggers.find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=rf"\b{name}\b.*pip install {package}$"):
        check_loggers(TrackingSettings({name: {}}))


@pytest.mark.parametrize(
    ("loggers", "key"),
    [
        ({"comet": {"api_key": "sesame"}}, "comet.api_key"),
        ({"wandb": {"settings": {"apiKey": "sesame"}}}, "wandb.settings.apiKey"),
        ({"mlflow": {"tags": {"user_password": "sesame"}}}, "mlflow.tags.user_password"),
        ({"mlflow": {"tracking_uri": "https://me:sesame@example.org"}}, "mlflow.tracking_uri"),
    ],
)
def test_secrets_are_an_error_before_any_file_is_written(fits, loggers, key):
    cfg = fits.datamodule.cfg.copy()
    cfg.tracking.loggers = loggers
    with pytest.raises(ConfigError, match=rf"tracking\.loggers\.{key}.*WANDB_API_KEY") as caught:
        to_settings(cfg)
    assert "sesame" not in str(caught.value)


def test_harmless_names_are_not_secrets(fits):
    arguments = {
        "comet": {"experiment_key": "e" * 40},
        "mlflow": {"tracking_uri": "http://host:5000/a@b"},
        "wandb": {"notes": "by the author", "group": None},
    }
    assert TrackingSettings(arguments).loggers == arguments
