"""Snapshot of the whole path, from demo data to an exported detector. It guards refactoring.

Only the command line and the names of the contract are used, so the test survives every move of a module.
Update the snapshot on purpose with `ROADWORK_UPDATE_SNAPSHOT=1 pytest -n 0 tests/test_snapshot.py`.

Bytes, integers and text compare exactly. Floats compare within 1e-6, what training made within `TRAINED`: another
CPU may use other vector instructions. On the machine kind that made the snapshot, weights and logits also compare
bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from roadwork.cli import main
from roadwork.config import load_config
from roadwork.data.augmentation.heavy_aug_kornia import HeavyAugmentationKornia
from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG = str(CHECKOUT / "configs" / "config.yaml")
STORED = Path(__file__).parent / "snapshots" / "behaviour.json"
UPDATE = bool(os.environ.get("ROADWORK_UPDATE_SNAPSHOT"))
TRAINED = 5e-3
TINY_RESNET = "model.config={embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}"
TINY = (
    "data.img_size=32",
    "data.dataloader.batch_size=16",
    "data.dataloader.num_workers=0",
    "training.epochs=4",
    "training.lr=0.02",
    "training.deterministic=true",
    "training.seed=0",
)
# What a machine, a date or a release decides.
NOT_COMPARED = {
    *("created", "roadwork", "python", "versions", "git_revision", "processes"),
    *("sha256", "checkpoint_sha256", "sha256_of_rows"),
}
# Wording may change: of these only the key is held.
PROSE = {"wire", "observed", "fix", "sentence", "verdict", "method"}


def cpu_model() -> str:
    """Vendor, family and model of the CPU: libraries choose their kernels by these, too."""
    info = Path("/proc/cpuinfo")
    lines = [line.split(":") for line in info.read_text().splitlines()] if info.is_file() else []
    facts = {name.strip(): rest[0].strip() for name, *rest in lines if rest}
    return " ".join([platform.machine(), *(facts.get(key, "?") for key in ("vendor_id", "cpu family", "model"))])


def sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def compare(found: Any, stored: Any, tolerance: float, where: str) -> None:
    """Compares nested values; floats within the tolerance, all else exactly."""
    if isinstance(stored, float) and isinstance(found, int | float) and not isinstance(found, bool):
        assert math.isclose(found, stored, rel_tol=tolerance, abs_tol=tolerance), f"{where}: {found} is not {stored}"
        return
    assert type(found) is type(stored), f"{where}: {found!r} is not {stored!r}"
    if isinstance(stored, dict):
        assert list(found) == list(stored), f"{where}: keys {list(found)} are not {list(stored)}"
        for key, value in stored.items():
            compare(found[key], value, tolerance, f"{where}.{key}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), f"{where}: {len(found)} entries, not {len(stored)}"
        for number, (one, other) in enumerate(zip(found, stored, strict=True)):
            compare(one, other, tolerance, f"{where}[{number}]")
    else:
        assert found == stored, f"{where}: {found!r} is not {stored!r}"


def check(name: str, value: Any, tolerance: float = 1e-6) -> None:
    """Compares a value with the stored one of this name, or stores it where an update is asked for."""
    value = json.loads(json.dumps(value))  # tuples become lists, keys become text
    snapshot = json.loads(STORED.read_text()) if STORED.is_file() else {}
    if UPDATE:
        STORED.parent.mkdir(exist_ok=True)
        STORED.write_text(json.dumps(snapshot | {name: value}, indent=1, sort_keys=False) + "\n")
        return
    compare(value, snapshot[name], tolerance, name)


def roadwork(*arguments: str) -> int:
    """Runs a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def numbers(array: Any) -> list[float]:
    return [float(f"{value:.9g}") for value in np.asarray(array, dtype=np.float64).ravel()]


def statistics(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Mean, standard deviation and first value of each tensor."""
    return {
        name: numbers([t.double().mean(), t.double().std(unbiased=False), t.double().ravel()[0]])
        for name, t in sorted(tensors.items())
    }


def files_below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    )


def without_machine(value: Any) -> Any:
    """JSON content without what differs by machine (paths, versions, times, hashes of files) and without wording."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in NOT_COMPARED}
        return {key: "TEXT" if key in PROSE and item else without_machine(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    return "PATH" if isinstance(value, str) and os.sep in value and Path(value).is_absolute() else value


def common_keys(found: Any, stored: Any) -> Any:
    """`found` without the keys that a newer configuration adds, in the stored order."""
    if isinstance(found, dict) and isinstance(stored, dict):
        return {key: common_keys(found[key], value) for key, value in stored.items() if key in found}
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("snapshot") / "photos"
    assert roadwork("demo-data", str(root), "--images", "240", "--size", "160x120", "--seed", "3") == 0
    return root


def train(photos: Path, *overrides: str) -> Path:
    """Trains, evaluates and calibrates; returns the run folder."""
    output = photos.parent / "outputs"
    settings = [*TINY, f"data.root={photos}", f"output_dir={output}", *(overrides or [TINY_RESNET])]
    assert roadwork("train", "--config", CONFIG, *settings) == 0
    experiment = next((s.removeprefix("experiment=") for s in overrides if s.startswith("experiment=")), "default")
    folder = (output / experiment / "latest").resolve()
    assert roadwork("evaluate", str(folder)) == 0
    assert roadwork("calibrate", str(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def run(photos) -> Path:
    return train(photos)


@pytest.fixture(scope="module")
def model(run) -> Path:
    out = run.parents[1] / "model"
    assert roadwork("export", str(run), "--format", "hf", "--out", str(out)) == 0
    return out


def test_demo_data(photos, tmp_path):
    images = sorted((photos / "images").rglob("*.jpg"))
    tables = {name: sha256((photos / name).read_bytes()) for name in ("labels.csv", "deployment.geojson")}
    check("demo.local", {"n": len(images), "images": sha256(*(p.read_bytes() for p in images)), **tables})
    parquet = tmp_path / "parquet"
    arguments = ("demo-data", str(parquet), "--images", "24", "--size", "160x120", "--seed", "3", "--format", "parquet")
    assert roadwork(*arguments) == 0
    table = pd.concat([pq.read_table(path).to_pandas() for path in sorted(parquet.rglob("*.parquet"))])
    pixels = sha256(*(image["bytes"] for image in table["image"]))
    rest = table.drop(columns="image").to_json(orient="records", default_handler=str)
    check("demo.parquet", {"columns": list(table.columns), "images": pixels, "rest": sha256(rest.encode())})


def test_splits(photos):
    assert roadwork("split", "--config", CONFIG, f"data.root={photos}", f"output_dir={photos.parent / 'out'}") == 0
    written = json.loads((photos / "splits.json").read_text())
    check("splits", {key: written[key] for key in ("version", "strategy", "seed", "ratios", "fingerprint")})
    check("splits.ids", {name: sorted(ids)[:3] for name, ids in written["splits"].items()})
    check("splits.all", sha256(json.dumps([written["splits"], written["set_aside"]], sort_keys=True).encode()))


class Photos:
    """Positions around four cities, every ninth unknown."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        centres = np.array([[52.5, 13.4], [48.1, 11.6], [50.9, 6.9], [41.9, 12.5]])
        self.gps = centres[generator.integers(4, size=300)] + generator.normal(0, 0.6, (300, 2))
        self.gps[::9] = np.nan

    def __len__(self) -> int:
        return len(self.gps)


@pytest.mark.parametrize("draw", ["systematic", "iid"])
def test_sampler(draw):
    target = np.array([[52.5, 13.4]]) + np.random.default_rng(1).normal(0, 0.3, (60, 2))
    sampler = GPSWeightedSampler(data_source=Photos(), test_gps=target, n_clusters=5, random_seed=42, draw=draw)
    check(f"sampler.{draw}", {"first": list(sampler), "second": list(sampler)})
    check(
        f"sampler.{draw}.weights",
        {
            "weights": numbers(sampler.weights),
            "distances_km": [value if math.isfinite(value) else None for value in numbers(sampler.distances_km)],
            "centres": sorted(np.round(sampler.cluster_centers, 9).tolist()),
        },
    )


def test_training_batches(photos):
    cfg = load_config(CONFIG, [*TINY, TINY_RESNET, f"data.root={photos}", f"output_dir={photos.parent / 'out'}"])
    datamodule = NATIXDataModule(cfg)
    datamodule.setup("fit")
    rows = torch.cat([batch["index"] for batch in datamodule.train_dataloader()])
    check("batches.rows", datamodule.table.ids[rows.numpy()].tolist())
    check("batches.gps", numbers(datamodule._get_test_gps_coords()[:20]))


@pytest.mark.parametrize("augmentation", [LatestAugmentation2025, HeavyAugmentationKornia])
def test_augmentation(augmentation):
    images = torch.rand(12, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 2
    torch.manual_seed(7)
    changed, targets = augmentation(img_size=48)(images, labels)
    assert changed.shape == (12, 3, 48, 48)
    check(f"augmentation.{augmentation.__name__}.labels", numbers(targets), 1e-4)
    check(f"augmentation.{augmentation.__name__}.means", numbers(changed.mean(dim=(2, 3))), 1e-3)


def predicted(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "predictions.parquet")


def exact(name: str, value: bytes) -> None:
    """Compares bits, on the machine kind and the torch version that made the snapshot only."""
    machine = f"{cpu_model()} {torch.backends.cpu.get_cpu_capability()} {torch.__version__}"
    stored = {} if UPDATE else json.loads(STORED.read_text())[name]
    if UPDATE or machine in stored:
        check(name, {machine: sha256(value)})


def test_training_run(run):
    check("run.files", files_below(run))
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = [{key: value for key, value in epoch.items() if "second" not in key} for epoch in epochs]
    check("run.metrics", timed, TRAINED)
    config = without_machine(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
    check("run.config", config if UPDATE else common_keys(config, json.loads(STORED.read_text())["run.config"]))
    check("run.manifest", without_machine(json.loads((run / "manifest.json").read_text())), TRAINED)
    weights = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    check("run.weights", statistics(weights), TRAINED)
    exact("run.weights.exact", b"".join(weights[name].numpy().tobytes() for name in sorted(weights)))


def test_predictions_and_results(run):
    frame = predicted(run)
    check("predictions.columns", list(frame.columns))
    logits = frame[["logit_none", "logit_roadwork"]].to_numpy()
    check("predictions.rows", frame[["id", "split", "label"]].astype(str).to_numpy().tolist()[::7])
    check("predictions.logits", numbers(logits[::7]), TRAINED)
    exact("predictions.exact", logits.tobytes())
    check("results", without_machine(json.loads((run / "results.json").read_text())), 0.02)
    check("calibration", without_machine(json.loads((run / "calibration.json").read_text())), 0.02)


def test_export_and_predict(model, photos, tmp_path):
    check("export.files", files_below(model))
    config = json.loads((model / "config.json").read_text())
    check("export.config", without_machine({k: v for k, v in config.items() if k != "transformers_version"}), 0.02)
    check("export.weights", statistics(load_file(model / "model.safetensors")), TRAINED)
    out = tmp_path / "predictions.csv"
    assert roadwork("predict", str(model), str(photos / "images"), "--out", str(out)) == 0
    frame = pd.read_csv(out)
    check("predict.columns", list(frame.columns))
    check("predict.n", len(frame))
    check("predict.probabilities", numbers(frame.filter(like="probability").iloc[::11].to_numpy()), TRAINED)


def test_adapter_run(photos):
    vit = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, patch_size: 8}"
    folder = train(
        photos, "model=vit_base", "model.name=vit", "model.pretrained=false", f"model.config={vit}",
        "experiment=lora", "training.adapter=lora", "training.epochs=1",
    )  # fmt: skip
    check("lora.logits", numbers(predicted(folder)[["logit_none", "logit_roadwork"]].to_numpy()[::13]), TRAINED)


EXIT_CODES = (
    [("--help",)]
    + [
        (command, "--help")
        for command in ("train", "preflight", "demo-data", "split", "evaluate", "calibrate", "export", "predict")
    ]
    + [("report", "--help"), ("serve", "--help"), ("train", "--no-such-option"), ("evaluate",), ("no-such-command",)]
    + [
        ("train", "--config", CONFIG, "training.no_such_key=1"),
        ("train", "--config", CONFIG, "training.epochs=-1"),
        ("train", "--config", CONFIG, "data.augmentation.train.mode=sepia"),
        ("train", "--config", CONFIG, "data.root=no/such/folder"),
        ("train", "--config", "no/such/file.yaml"),
        ("evaluate", "no/such/run"),
        ("calibrate", "no/such/run"),
        ("export", "no/such/run", "--format", "hf", "--out", "out"),
        ("predict", "no/such/model", "no/such/photo.jpg", "--out", "out.csv"),
        ("demo-data", "photos", "--size", "big"),
    ]
)


def test_exit_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    codes = {" ".join(arguments).replace(CONFIG, "CONFIG"): roadwork(*arguments) for arguments in EXIT_CODES}
    check("exit codes", codes)
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
    assert list(tmp_path.iterdir()) == []


def test_unknown_augmentation_mode_lists_the_modes(photos):
    cfg = load_config(CONFIG, [f"data.root={photos}"])
    cfg.data.augmentation.train.mode = "sepia"
    with pytest.raises(ValueError, match=r"Unknown augmentation mode: .*sepia.*latest_2025.*heavy_kornia"):
        NATIXDataModule(cfg)._get_train_transforms(cfg)
