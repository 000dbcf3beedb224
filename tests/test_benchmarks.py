"""Smoke tests of the benchmarks on tiny inputs, and tests of the measurements themselves."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_1samp
from sklearn.metrics import matthews_corrcoef
from torch.autograd import DeviceType

from benchmarks import (
    augment,
    geo,
    geo_cases,
    gpu,
    input_epochs,
    paired,
    predict,
    real,
    step,
    step_cases,
    step_epochs,
    storage,
    streetvision,
)
from benchmarks import input as input_benchmark
from benchmarks.augment_cases import MODES, Case
from benchmarks.input_cases import PILLOW, check_decoders, decoders
from benchmarks.paired import Contender, compare, take_turns
from benchmarks.photos import make_photos
from benchmarks.predict_cases import check_predictors
from benchmarks.step_cases import StepClock, train_bare, train_by_trainer, train_ours
from benchmarks.step_work import load_work
from roadwork.core.errors import ConfigError
from roadwork.data.images import decode_image
from roadwork.evaluation.streetvision.reward import simulate_reward

CHECKOUT = Path(__file__).resolve().parents[1]
ARGUMENTS = {
    augment: ["--sizes", "32", "--batch", "4", "--mode", "latest_2025"],
    geo: ["--rows", "2000", "--only", "distance"],
    input_benchmark: ["--images", "5", "--photo", "160", "120", "--size", "32", "--workers", "0"],
    predict: ["--model", "resnet", "--photo", "320", "240", "--images", "4", "--batch", "2", "--workers", "2"],
    storage: ["--images", "2", "--size", "32", "--photo", "160x120"],
}
# Hides the packages that an image with only torch, lightning, transformers and peft may lack.
RUN_GPU_ON_A_BARE_IMAGE = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = "omegaconf kornia datasets pyarrow pandas sklearn joblib h3 imagehash timm".split()
        return None if name.split(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from benchmarks.gpu import main
main(sys.argv[1:])
"""


def rows_of(benchmark, arguments, file):
    """Runs a benchmark and returns the rows of its table."""
    benchmark.main([*arguments, "--repeat", "1", "--json", str(file)])
    return json.loads(file.read_text())["lines"]


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos", 3, size=(320, 240))


# Smoke tests: one for each benchmark.


@pytest.mark.parametrize("benchmark", ARGUMENTS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_benchmark_runs(benchmark, tmp_path, capsys):
    rows = rows_of(benchmark, ARGUMENTS[benchmark], tmp_path / "rows.json")
    is_geo = benchmark is geo
    assert {row["tool" if is_geo else "name"] for row in rows} > {"roadwork"} or benchmark in (predict, storage)
    assert len(rows) >= 3
    assert all(row["seconds" if is_geo else "images_per_s"] > 0 for row in rows)
    ratios = [row["ratio" if is_geo else "ours_ratio"] for row in rows]
    assert ratios[0] is None
    assert any(ratio is not None and ratio > 0 for ratio in ratios)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_step_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "alone", Contender)  # starting a process per contender takes seconds
    monkeypatch.setattr(step_epochs, "PHOTO_SIZE", (160, 120))
    arguments = ["--model", "resnet", "--batch", "4", "--img-size", "32", "--steps", "1", "--epoch-images", "120"]
    rows = rows_of(step, arguments, tmp_path / "rows.json")
    assert [(row["task"].partition(",")[0], row["name"]) for row in rows] == [
        *(("step", name) for name in (step.OURS, step.BARE, step.TRAINER)),
        *(("second epoch", name) for name in (step.OURS, step.BARE) * 2),
    ]


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_bare_image(tmp_path):
    file = tmp_path / "rows.json"
    arguments = ["--tiny", "--models", "vit-s", "--steps", "1", "--repeat", "1", "--json", str(file)]
    command = [sys.executable, "-c", RUN_GPU_ON_A_BARE_IMAGE, *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["lines"]
    failed = {row["name"] for row in rows if "error" in row}
    assert failed == {"timm, plain loop, eager", "timm, eager"}
    assert all(row["images_per_s"] > 0 for row in rows if row["name"] not in failed)


# Tests of the measurements.


def test_contenders_alternate_and_warmups_are_not_timed(monkeypatch):
    order, clock = [], iter(range(1000))
    monkeypatch.setattr(paired.time, "perf_counter", lambda: next(clock))
    contenders = [Contender(name, lambda name=name: order.append(name) or 10) for name in "ab"]
    assert take_turns(contenders, repeats=2, warmups=1) == {"a": [10.0, 10.0], "b": [10.0, 10.0]}
    assert "".join(order) == "baabba"


def test_ratios_are_taken_within_a_repetition():
    # Both are twice as fast in the second repetition. This must not change the ratio, as a ratio of medians would.
    ours, theirs = compare("decode", "ours", {"ours": [30, 60, 33], "theirs": [10, 20, 10]}, {"theirs": "coarser"})
    assert (ours.images_per_s, ours.images_per_s_low, ours.images_per_s_high, ours.ours_ratio) == (33, 30, 60, None)
    assert (theirs.ours_ratio, theirs.ours_ratio_low, theirs.ours_ratio_high) == pytest.approx((3, 3, 3.3))


def test_geo_ratio_uses_medians_and_the_widest_spread():
    def runs(*seconds):
        return [{"seconds": s, "cpu_seconds": s, "beyond_gb": 0.1, "scale": 1.0, "error": None} for s in seconds]

    _, other = geo.compare({("t", "roadwork", 10): runs(2, 1, 4), ("t", "other", 10): runs(30, 10, 20)})
    assert (other["ratio"], other["ratio_low"], other["ratio_high"]) == (10, 10 / 4, 30 / 1)


def test_geo_measures_memory_and_scaled_seconds():
    held = []

    def run():
        held.append(np.ones(60_000_000))  # 480 MB
        return 3

    measured = geo_cases.measure(run)
    assert measured["beyond_gb"] > 0.4
    assert measured["scale"] == 3
    assert measured["seconds"] >= 3 * 0.001


def test_augment_shares_are_weighted_by_probability():
    cases = [Case("always", 1.0, abs), Case("rare", 0.25, abs)]
    speeds = {"always": 200, "rare": 100}
    lines = [row for name, speed in speeds.items() for row in compare(name, augment.OURS, {augment.OURS: [speed]})]
    assert augment.weighted_shares(cases, lines) == pytest.approx({"always": 5 / 7.5, "rare": 2.5 / 7.5})


def test_augment_memory_is_the_peak():
    images = torch.zeros(4, 3, 64, 64)
    assert augment.peak_batches(lambda x: [x.clone() for _ in range(3)], images) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("mode", ["latest_2025", "heavy_kornia"])
def test_augmentation_peak_memory_stays_below_four_batches(mode):
    images = torch.rand(32, 3, 96, 96)
    torch.manual_seed(0)
    whole = MODES[mode](96)[-1].ours
    whole(images)
    assert max(augment.peak_batches(whole, images) for _ in range(4)) < 3


def test_different_images_raise(photos):
    encoded = [path.read_bytes() for path in photos]
    named = decoders(32, is_training=False)
    assert 0 < check_decoders(named, encoded, 32)["roadwork"] < 1
    with pytest.raises(ValueError, match="flipped"):
        check_decoders({"flipped": lambda data: named[PILLOW](data)[::-1]}, encoded, 32)
    turned = input_epochs.plain_epoch(input_epochs.PillowPhotos(photos[::-1], 32), workers=0)
    with pytest.raises(ValueError, match="turned"):
        input_epochs.check_epochs({"turned": turned}, photos, 32)


def test_different_predictions_raise():
    with pytest.raises(ValueError, match="wrong"):
        check_predictors({predict.OURS: lambda: [0.1, 0.9], "wrong": lambda: [0.1, 0.8]})


def test_all_stores_return_the_same_photos(photos, tmp_path):
    for name, store in storage.stores(photos, tmp_path, 64).items():
        for row, photo in enumerate(photos):
            image = store.read(row).astype(int)
            assert np.abs(image - decode_image(photo.read_bytes(), 64)).mean() < 4, name


def test_step_contenders_learn_the_same_weights():
    work = load_work("resnet", 3, 2, "data.img_size=32", "data.dataloader.batch_size=4")
    ours, bare, trainer = (train(work) for train in (train_ours, train_bare, train_by_trainer))
    weights = ours.network.state_dict()
    torch.testing.assert_close(bare.network.state_dict(), weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        trainer.network.state_dict(), weights, rtol=1e-2, atol=1e-3
    )  # its norms round differently


def test_step_clock_counts_the_steps_after_the_warmup(monkeypatch):
    loop = SimpleNamespace(current_epoch=1, num_training_batches=5)
    clock = StepClock(warmup=2, epoch=1)
    for number in range(5):
        monkeypatch.setattr(step_cases, "now", lambda number=number: 10.0 * number)
        clock.on_train_batch_end(loop, None, None, None, number)
    assert clock.seconds == 40 - 10  # from the end of step 2 to the end of step 5


@pytest.mark.parametrize(("layers", "width", "mlp", "side"), [(2, 32, 128, 32), (1, 32, 64, 160)])
def test_gpu_flops_follow_the_formula(layers, width, mlp, side):
    # Two FLOPs per multiply-add: patches, layers (q, k, v, output, MLP, attention), and the head on one token.
    tokens = (side // 16) ** 2 + 1
    per_layer = 2 * tokens * (4 * width**2 + 2 * width * mlp) + 2 * 2 * tokens**2 * width
    expected = 2 * (tokens - 1) * 3 * 16**2 * width + layers * per_layer + 2 * width * 2
    fields = {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers}
    network = gpu.build_network(gpu.Architecture("", gpu.VIT_TINY | fields, "", img_size=side))
    assert gpu.count_flops(network, side) == pytest.approx(expected, rel=0.001)


def test_gpu_busy_share_counts_overlapping_kernels_once():
    def event(start, end, device=DeviceType.CUDA, *, is_user_annotation=False):
        times = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=times, device_type=device, is_user_annotation=is_user_annotation)

    batches = gpu.TimedBatches(SimpleNamespace(device=torch.device("cpu")), 1, profiled=True)
    batches.job.device = torch.device("cuda")
    batches._times = [10.0, 10.001]  # 1 ms
    events = [event(0, 200), event(100, 400), event(0, 900, DeviceType.CPU), event(0, 1000, is_user_annotation=True)]
    batches._profiler = SimpleNamespace(events=lambda: events)
    assert batches.busy_share() == pytest.approx(0.4)


def test_gpu_times_only_the_timed_steps(monkeypatch):
    chosen, cpu = gpu.TINY_MODELS["vit-s"], torch.device("cpu")
    job = gpu.Job(chosen, gpu.build_network(chosen), cpu, gpu.random_batches(chosen, 4, cpu))
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock.now)

    def take_all(batches):
        for number, _ in enumerate(batches):
            clock.now += 100 if number < 3 else 2  # warm-up steps take 100 s, timed steps 2 s
        clock.now += 1000
        return 0.0

    assert gpu.take(take_all, gpu.TimedBatches(job, steps=5, lead_in=3)) == 4 / 2


@pytest.mark.parametrize("command", ["familiarity", "elsewhere"])
def test_real_photos_are_skipped_where_missing(tmp_path, capsys, command):
    real.main([command, "--photos", str(tmp_path), "--model", "model"])
    assert "Skipped" in capsys.readouterr().out


@pytest.fixture
def real_photos(tmp_path):
    """A table with the sources, cities and drives of the real photos, and one pair per city."""
    rows = [("web", "", ""), ("road-web", "", ""), ("dashcam-us", "boston", "b"), ("dashcam-us", "denver", "d")]
    rows += [("camvid", "cambridge", "drive1"), ("camvid", "cambridge", "drive2")]
    table = pd.DataFrame(rows, columns=["source", "city", "sequence_id"]).assign(label=[0, 1, 1, 1, 0, 0])
    table.assign(filename=[f"images/{i}.jpg" for i in range(6)]).to_csv(tmp_path / "labels.csv", index=False)
    pairs = pd.DataFrame({"filename": list("abcd"), "label": [0, 1] * 2, "pair": [0, 0, 1, 1]})
    pairs.assign(city=["boston"] * 2 + ["denver"] * 2).to_csv(tmp_path / "pairs.csv", index=False)
    for folder in ("images", "pairs"):
        (tmp_path / folder).mkdir()
    return tmp_path


@pytest.fixture
def trained_on(monkeypatch):
    """What `roadwork train` and `evaluate --on` read, with an AUC of 0.5, 0.9, 0.7 in turn for photos."""
    used, scores = [], iter([0.5, 0.9, 0.7] * 3)

    def pretend(command, *arguments):
        run, out = Path(arguments[0]), Path(arguments[-1])
        if command == "train":
            root = next(text.removeprefix("data.root=") for text in arguments if text.startswith("data.root="))
            used.append(pd.read_csv(f"{root}/labels.csv")["filename"].str.extract(r"(\d)")[0].tolist())
        elif command == "evaluate" and "--on" not in arguments:
            run.mkdir(parents=True)
            (run / "results.json").write_text(json.dumps({"val_test": {"mcc": 1.0}}))
        elif "--on" in arguments:
            judged = Path(arguments[2])
            is_pairs = judged.suffix == ".csv"  # a folder would need labels beside the pairs
            table = pd.read_csv(judged if is_pairs else judged / "labels.csv")
            used.append(table["city"].unique().tolist() if is_pairs else table["filename"].str[7].tolist())
            overall = None if is_pairs else {"n": len(table)} | dict.fromkeys(real.FIGURES, next(scores))
            pairs = {"n": 1} | dict.fromkeys(real.PAIR_FIGURES, 1.0) if is_pairs else None
            out.mkdir(parents=True)
            (out / "results.json").write_text(json.dumps({"overall": overall, "pairs": pairs}))

    monkeypatch.setattr(real, "run_command", pretend)
    return used


def test_protocol_a_judges_sources_that_training_lacks(real_photos, trained_on, capsys):
    out = real_photos / "rows.json"
    real.main(["elsewhere", "--photos", str(real_photos), "--model", "model", "--json", str(out)])
    assert trained_on == [["0", "1"], ["2", "3", "4", "5"], ["boston", "denver"]] * 3
    assert [row["auroc"] for row in json.loads(out.read_text())] == [0.5, 0.9, 0.7]
    assert "| median of seeds |  | 1.000 |  | 0.700" in capsys.readouterr().out


def test_an_interrupted_protocol_measures_only_the_missing_seeds(real_photos, trained_on, monkeypatch, capsys):
    out, calls = real_photos / "rows.json", real.run_command
    command = ["elsewhere", "--photos", str(real_photos), "--model", "model", "--json", str(out)]

    def interrupt(name, *arguments):
        if "training.seed=1" in arguments:
            raise KeyboardInterrupt
        calls(name, *arguments)

    monkeypatch.setattr(real, "run_command", interrupt)
    with pytest.raises(KeyboardInterrupt):
        real.main(command)
    assert [row["seed"] for row in json.loads(out.read_text())] == [0]
    monkeypatch.setattr(real, "run_command", calls)
    real.main(command)
    assert [row["auroc"] for row in json.loads(out.read_text())] == [0.5, 0.9, 0.7]
    assert len(trained_on) == 9  # training, photos and pairs of three seeds
    assert "| median of seeds |  | 1.000 |  | 0.700" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"data\.img_size=70"):
        real.main([*command, "data.img_size=70"])


def test_protocol_b_leaves_a_city_and_a_drive_out(real_photos, trained_on):
    real.main(["elsewhere", "--photos", str(real_photos), "--model", "model", "--seeds", "1", "--protocol", "B"])
    boston = [["0", "1", "3", "5"], ["2", "4"], ["boston"]]
    assert trained_on == [*boston, ["0", "1", "2", "4"], ["3", "5"], ["denver"]]


def test_protocol_c_trains_on_all_and_judges_another_dataset(real_photos, trained_on, tmp_path):
    judge = tmp_path / "elsewhere"
    judge.mkdir()
    pd.DataFrame({"filename": ["images/9.jpg"], "label": [1]}).to_csv(judge / "labels.csv", index=False)
    command = ["elsewhere", "--photos", str(real_photos), "--model", "model", "--seeds", "1", "--protocol", "C"]
    real.main([*command, "--judge", str(judge)])
    assert trained_on == [["0", "1", "2", "3", "4", "5"], ["9"]]


def challenges(mode, seed, levels, n=60):
    """Predictions of `n` photos at each level; mode latest_2025 has more errors, and a seed other ones."""
    photo, level = np.arange(n * levels) % n, np.arange(n * levels) // n
    label = photo % 2
    is_wrong = (photo + level) % ((4 if mode == "latest_2025" else 12) + seed) == 0
    names = [f"{row}.jpg" for row in photo]
    frame = pd.DataFrame({"id": names, "filename": names, "split": "val_test", "label": label, "group": photo // 3})
    frame = frame.assign(logit_none=0.0, logit_roadwork=0.0, probability=0.5, latitude=0.0, longitude=0.0)
    frame = frame.assign(distance_km=0.0, challenge_score=np.abs(label - 0.1 - 0.8 * is_wrong))
    return frame.assign(challenge_level=level) if levels > 1 else frame


@pytest.fixture
def pretended(monkeypatch):
    """The settings of the pretended training runs, whose predictions are those of `challenges`."""
    trained = []

    def pretend(command, *arguments):
        if command == "train":
            trained.append(dict(text.split("=", 1) for text in arguments if "=" in text))
        if "--profile" in arguments:
            run, profile = Path(arguments[0]), arguments[-1]
            run.mkdir(parents=True, exist_ok=True)
            mode, seed = run.parent.name.split("-")
            frame = challenges(mode, int(seed), 4 if profile.endswith("01") else 1)
            frame.to_parquet(run / f"predictions_{profile}.parquet")

    monkeypatch.setattr(streetvision, "run_command", pretend)
    monkeypatch.setattr(streetvision, "DRAWS", 10)
    return trained


def test_streetvision_compares_both_modes(tmp_path, pretended, capsys):
    arguments = ["--seeds", "2", "--out", str(tmp_path / "runs"), "--json", str(tmp_path / "rows.json")]
    streetvision.main(arguments)
    modes = [(one["data.augmentation.train.mode"], one["training.seed"]) for one in pretended]
    assert modes == [("latest_2025", "0"), ("streetvision", "0"), ("latest_2025", "1"), ("streetvision", "1")]
    rows = {(row["profile"], row["figure"]): row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert [figure for _, figure in rows] == ["reward", *(f"MCC, level {n}" for n in range(4)), "reward", "MCC"]
    row = rows["streetvision-2026-01", "MCC, level 2"]
    for mode in streetvision.MODES:
        for seed in (0, 1):
            frame = challenges(mode, seed, 4).query("challenge_level == 2")
            expected = matthews_corrcoef(frame["label"], frame["challenge_score"] > 0.5)
            assert row[mode]["by_seed"][seed] == pytest.approx(expected)
    gaps = np.subtract(row["streetvision"]["by_seed"], row["latest_2025"]["by_seed"])
    assert row["difference"]["by_seed"] == pytest.approx(gaps)
    interval = ttest_1samp(gaps, 0).confidence_interval()
    assert row["difference"]["student"] == pytest.approx([interval.low, interval.high])
    assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]
    assert "60 photos in 20 groups, 2 seeds" in capsys.readouterr().out
    frame = challenges("streetvision", 0, 4)
    reward = simulate_reward(frame["label"].to_numpy(), (frame["challenge_score"] > 0.5).to_numpy()).mean
    assert rows["streetvision-2026-01", "reward"]["streetvision"]["by_seed"][0] == pytest.approx(reward, abs=0.01)
    # Finished runs are used again, but not with other settings.
    streetvision.main(arguments)
    assert len(pretended) == 4
    with pytest.raises(SystemExit, match="other settings"):
        streetvision.main([*arguments, "training.epochs=1"])


def test_streetvision_on_real_photos_freezes_the_backbone(tmp_path, pretended, capsys):
    arguments = ["--photos", str(tmp_path), "--model", "vit", "--seeds", "1", "--out", str(tmp_path / "runs")]
    streetvision.main(arguments)
    assert "Skipped" in capsys.readouterr().out
    (tmp_path / "images").mkdir()
    rows = {"filename": ["a", "b"], "label": [0, 1], "source": ["web", "camvid"]}
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv")
    streetvision.main(arguments)
    settings = pretended[0]
    assert (settings["model.name"], settings["training.freeze_backbone"]) == ("vit", "true")
    assert pd.read_csv(f"{settings['data.root']}/labels.csv")["source"].tolist() == ["web", "camvid"]
