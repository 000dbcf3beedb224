"""`evaluate --on`: a run and its export, judged on other photos whose figures are known."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.detectors import make_run
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import roadwork.cli.evaluate  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of
from roadwork.detector import two_sample
from roadwork.detector.familiarity import UNFAMILIAR, UNKNOWN
from roadwork.evaluation import elsewhere, reference
from roadwork.evaluation.elsewhere import evaluate_elsewhere
from roadwork.evaluation.elsewhere_results import format_elsewhere
from roadwork.evaluation.seen_rows import SeenRows, TrainingRows
from roadwork.export.export import export_run
from roadwork.metrics.predictions import read_predictions
from roadwork.report.page import render_page
from roadwork.report.run_files import read_run
from roadwork.report.sections.results import elsewhere_section
from roadwork.runs.run import Run

SPLITS = {"train": 40, "val_select": 16, "val_calib": 16, "val_test": 16}
FAST = ("evaluation.bootstrap_draws=100",)
BRIGHT, DARK = 170, 60


def draw(path: Path, brightness: int, seed: int) -> Path:
    """A photo of soft patches. Bright ones are Roadwork where the run was trained."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(-50, 50, (5, 5, 3)).astype(np.int8).view(np.uint8) + np.uint8(128))
    smooth = np.asarray(patches.resize((64, 64), Image.Resampling.BICUBIC)).astype(int) - 128
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((brightness + smooth).clip(0, 255).astype(np.uint8)).save(path)
    return path


def make_dataset(root: Path, rows: list[dict], first_seed: int) -> Path:
    """A local dataset; a row's `brightness` decides its photo, and the other keys are columns."""
    frame = pd.DataFrame(rows)
    for number, row in enumerate(rows):
        draw(root / row["filename"], row["brightness"], first_seed + number)
    frame.drop(columns="brightness").to_csv(root / "labels.csv", index=False)
    return root


def as_trained(n: int, prefix: str, latitude: float) -> list[dict]:
    """Rows as the run knows them, each 11 km from the next."""
    return [
        {
            "filename": f"{prefix}_{number:02d}.png", "label": number % 2, "latitude": latitude + number / 10,
            "longitude": 10.0, "sequence_id": f"{prefix}-drive-{number}", "brightness": (DARK, BRIGHT)[number % 2],
        }
        for number in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Fewer draws of held-out groups than usual, which take most of the time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_sample, "DRAWS", 20)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with `photos`, a trained `run`, and its exports `model` and `plain` (without training rows)."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rows = as_trained(sum(SPLITS.values()), "home", 40.0)
    photos = make_dataset(folder / "photos", rows, 0)
    names = [row["filename"] for row in rows]
    ends = np.cumsum(list(SPLITS.values()))
    splits = {name: names[end - SPLITS[name] : end] for name, end in zip(SPLITS, ends, strict=True)}
    (photos / "splits.json").write_text(json.dumps(splits))
    run = make_run(
        folder / "outputs", photos, "data.augmentation.train.mode=none", "data.gps_sampling.enabled=false",
        "training.epochs=4", "training.lr=0.02", "training.deterministic=true", "data.dataloader.num_workers=0",
        "data.dataloader.batch_size=8", *FAST,
    )  # fmt: skip
    shutil.move(run, folder / "run")
    export_run(folder / "run", folder / "model", format="hf", training_rows=True)
    shutil.copytree(folder / "model", folder / "plain", ignore=shutil.ignore_patterns("training_rows.npz"))
    return folder


@pytest.fixture
def run(world, tmp_path):
    """A run that the test may change."""
    return shutil.copytree(world / "run", tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))


@pytest.fixture(scope="module")
def night_city(tmp_path_factory):
    """20 photos by day as at home, and 20 at night, where the roadwork is as dark as all else."""
    day = [row | {"source": "day"} for row in as_trained(20, "day", -30.0)]
    night = [row | {"source": "night", "brightness": DARK} for row in as_trained(20, "night", -50.0)]
    return make_dataset(tmp_path_factory.mktemp("cities") / "night-city", day + night, 1000)


def judge(model, on, *overrides, out=None):
    result, folder = evaluate_elsewhere(model, str(on), [*FAST, *overrides], out)
    return result, read_predictions(folder / "predictions.parquet"), pd.read_csv(folder / "excluded.csv")


def test_other_looks_are_reported_as_a_drop(run, night_city):
    openings = Run(run).read_manifest()["val_test_openings"]
    assert Run(run).read_results()["val_test_calibrated"]["mcc"] == 1
    result, frame, excluded = judge(run, night_city)
    assert len(frame) == 40
    assert excluded.empty
    overall = result["overall"]
    assert overall["confusion"] == {"tn": 20, "fp": 0, "fn": 10, "tp": 10}
    assert (overall["recall"], overall["change"]["recall"]) == (0.5, -0.5)
    assert overall["balanced_accuracy"] == 0.75
    assert overall["mcc"] == pytest.approx(0.5774, abs=1e-4)
    assert overall["change"]["mcc"] == pytest.approx(overall["mcc"] - 1)
    assert overall["mcc_low"] <= overall["mcc"] <= overall["mcc_high"]
    assert "0.58" in result["sentence"]
    assert "0.42 below val_test" in result["sentence"]
    (by_source,) = (slicing for slicing in result["slices"] if slicing["title"] == "source")
    parts = {part["name"]: part for part in by_source["parts"]}
    assert (parts["day"]["mcc"], parts["night"]["recall"], parts["night"]["false_alarm_rate"]) == (1, 0, 0)
    manifest = Run(run).read_manifest()
    assert manifest["val_test_openings"] == openings
    written = "on/night-city/results.json"
    assert manifest["sha256"][written] == sha256_of(run / written)


def test_looks_are_compared_with_the_training_photos(world, run, night_city, tmp_path, monkeypatch):
    familiarity = judge(run, night_city)[0]["familiarity"]
    assert (familiarity["n"], familiarity["val_test"]["mcc"]) == (8, 1)
    assert "over 100 km from training photos 100% (training 0%)" in familiarity["differs"]
    monkeypatch.setattr(reference, "build_reference", lambda *_: pytest.fail("the reference was not kept"))
    assert judge(run, night_city)[0]["familiarity"] == familiarity
    exported = judge(world / "model", night_city, out=tmp_path / "out")[0]["familiarity"]
    assert exported["distance"] == pytest.approx(familiarity["distance"], abs=0.01)
    assert exported["limit"] == pytest.approx(familiarity["limit"], abs=0.01)
    assert not any(fact["is_share"] for fact in exported["facts"])  # exported without places
    noise = [row | {"filename": f"noise_{number}.png"} for number, row in enumerate(as_trained(16, "noise", 40.02))]
    root = make_dataset(tmp_path / "noise", noise, 6000)
    for row in noise:
        Image.effect_noise((64, 64), 120).convert("RGB").save(root / row["filename"])
    assert judge(run, root, "data.splitting.buffer_km=0.1")[0]["familiarity"]["verdict"] == UNFAMILIAR


@pytest.fixture(scope="module")
def revisited(world, tmp_path_factory):
    """Photos of which training has seen some, each in another way, and the reason of each."""
    root = tmp_path_factory.mktemp("cities") / "revisited"
    new = as_trained(12, "new", -30.0)
    reasons = {row["filename"]: "" for row in new}
    make_dataset(root, new, 2000)
    for row, name, reason in (
        (0, "renamed.png", "same pixels"),
        (1, "recompressed.jpg", "near-duplicate"),
        (80, "of_val_test.png", "val_test"),
    ):
        with Image.open(world / "photos" / f"home_{row:02d}.png") as photo:
            photo.save(root / name, **({"quality": 80} if name.endswith("jpg") else {}))
        new.append(new[row % 2] | {"filename": name, "latitude": 0.0, "sequence_id": f"drive of {name}"})
        reasons[name] = reason
    shutil.copyfile(world / "photos" / "home_02.png", root / "home_02.png")
    draw(root / "home_03.png", BRIGHT, 2900)
    draw(root / "next_frame.png", BRIGHT, 2901)
    draw(root / "around_the_corner.png", BRIGHT, 2902)
    new += [
        new[0] | {"filename": "home_02.png", "sequence_id": "a", "latitude": 1.0},
        new[1] | {"filename": "home_03.png", "sequence_id": "b", "latitude": 2.0},  # another photo of that name
        new[1] | {"filename": "next_frame.png", "sequence_id": "home-drive-5", "latitude": 3.0},
        new[1] | {"filename": "around_the_corner.png", "sequence_id": "c", "latitude": 40.0 + 0.7 + 0.001},
    ]
    reasons |= {"home_02.png": "same id", "home_03.png": "", "next_frame.png": "same sequence"}
    reasons["around_the_corner.png"] = "within the buffer"
    pd.DataFrame(new).drop(columns="brightness").to_csv(root / "labels.csv", index=False)
    return root, reasons


def check_exclusion(model, revisited, out, unchecked=()):
    root, reasons = revisited
    result, frame, excluded = judge(model, root, out=out)
    expected = {name: reason for name, reason in reasons.items() if reason and reason not in unchecked}
    assert dict(zip(excluded["filename"], excluded["reason"], strict=True)) == expected
    assert set(frame["filename"]) == set(reasons) - set(expected)
    assert result["seen"]["n"] == len(expected)
    assert result["seen"]["n_other_photos"] == 1
    return result, frame, excluded


def test_seen_rows_are_excluded_and_named(run, revisited, tmp_path):
    result, _, excluded = check_exclusion(run, revisited, tmp_path / "out")
    assert result["seen"]["by_reason"]["near-duplicate"] == 1
    assert result["seen"]["not_checked"] == []
    like = dict(zip(excluded["filename"], excluded["training_row"], strict=True))
    assert (like["renamed.png"], like["around_the_corner.png"]) == ("home_00.png", "home_07.png")


@pytest.mark.parametrize("wire", ["find_seen", "hash_images"])
def test_a_cut_wire_to_training_is_noticed(run, revisited, tmp_path, monkeypatch, wire):
    def without_images(data, table, source, whole=elsewhere.hash_images):
        images = whole(data, table, source)
        images.known[:] = False
        return images

    cut = {"find_seen": lambda training, table, images: SeenRows.none(len(table)), "hash_images": without_images}
    monkeypatch.setattr(elsewhere, wire, cut[wire])
    with pytest.raises(AssertionError):
        check_exclusion(run, revisited, tmp_path / "out")


def test_run_and_export_agree_on_the_same_rows(world, revisited, tmp_path):
    by_run, frame, _ = check_exclusion(world / "run", revisited, tmp_path / "by run")
    by_export, exported, _ = check_exclusion(
        world / "model", revisited, tmp_path / "by export", unchecked=["within the buffer"]
    )
    assert "positions" in by_export["seen"]["not_checked"][0]
    both = frame.merge(exported, on="id", suffixes=("", "_exported"))
    assert len(both) == len(frame)
    assert np.allclose(both["probability"], both["probability_exported"], atol=1e-5)
    assert by_run["threshold"] == by_export["threshold"]
    assert by_export["val_test"]["mcc"] == by_run["val_test"]["mcc"] == 1


def test_stored_positions_are_as_coarse_as_the_privacy_setting(world, tmp_path):
    run = Run(world / "run")
    rows = TrainingRows.of_run(run, run.read_settings())
    rows.write(tmp_path / "exact.npz", None)
    rows.write(tmp_path / "coarse.npz", 1)
    assert len(TrainingRows.read(tmp_path / "exact.npz").gps) == 0
    coarse = TrainingRows.read(tmp_path / "coarse.npz")
    assert np.array_equal(coarse.gps, rows.gps.round(1))
    assert coarse.buffer_km > rows.buffer_km + 7
    content = (tmp_path / "coarse.npz").read_bytes()
    assert b"home" not in content


def test_training_that_is_not_known_is_reported(world, run, night_city, tmp_path):
    old, _, _ = judge(world / "plain", night_city, out=tmp_path / "out")
    assert old["seen"]["is_checked"] is False
    assert "training_rows.npz" in old["seen"]["not_checked"][0]
    assert "not excluded" in old["sentence"]
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(world / "photos"), str(tmp_path / "gone")))
    moved, _, _ = judge(run, night_city)
    assert moved["familiarity"]["verdict"] == UNKNOWN
    assert str(tmp_path / "gone") in moved["seen"]["not_checked"][0]


def make_pairs(root: Path, wrong: int, n: int = 10) -> Path:
    """Pairs of a dark and a bright half; in the first `wrong` the bright one is None."""
    lines = ["filename,label,pair,city"]
    for number in range(n):
        for half, brightness in (("left", DARK), ("right", BRIGHT)):
            name = f"{number}_{half}.png"
            draw(root / "pairs" / name, brightness, 3000 + 2 * number + (half == "right"))
            label = int((half == "right") != (number < wrong))
            lines.append(f"{name},{label},{number},x")
    (root / "pairs.csv").write_text("\n".join(lines))
    return root / "pairs.csv"


def test_pairs_are_judged_as_pairs(run, night_city, tmp_path):
    result, frame, _ = judge(run, make_pairs(tmp_path / "city", wrong=2))
    pairs = result["pairs"]
    assert (pairs["n"], pairs["n_ranked_right"], pairs["ranked_right"]) == (10, 8, 0.8)
    assert 0.4 < pairs["ranked_right_low"] < 0.8 < pairs["ranked_right_high"] < 1
    assert pairs["balanced_accuracy"] == pytest.approx(0.8)
    assert result["overall"] is None
    assert frame["group"].nunique() == 10
    both = shutil.copytree(night_city, tmp_path / "both")
    make_pairs(both, wrong=0)
    result, frame, _ = judge(run, both)
    assert (result["overall"]["n"], result["pairs"]["ranked_right"]) == (40, 1)
    assert frame["split"].value_counts().to_dict() == {"photos": 40, "pairs": 20}


def test_half_of_a_pair_is_not_judged_alone(run, world, tmp_path):
    path = make_pairs(tmp_path / "city", wrong=0)
    shutil.copyfile(world / "photos" / "home_00.png", path.parent / "pairs" / "0_left.png")
    result, _, excluded = judge(run, path)
    assert set(excluded["filename"]) == {"0_left.png", "0_right.png"}
    assert result["pairs"]["n"] == 9


def test_one_class_has_recall_or_false_alarms_only(run, tmp_path):
    rows = as_trained(24, "far", -30.0)
    for number, row in enumerate(rows):
        row["source"] = ("none only", "roadwork only")[number % 2] if number < 16 else "both"
    result, _, _ = judge(run, make_dataset(tmp_path / "far", rows, 4000))
    (by_source,) = (slicing for slicing in result["slices"] if slicing["title"] == "source")
    parts = {part["name"]: part for part in by_source["parts"]}
    defined = {name: {key for key in elsewhere_figures() if part[key] is not None} for name, part in parts.items()}
    assert defined["none only"] == {"false_alarm_rate"}
    assert defined["roadwork only"] == {"recall"}
    assert {"mcc", "recall", "false_alarm_rate"} < defined["both"]
    assert parts["none only"]["false_alarm_rate_low"] == 0
    assert 0 < parts["none only"]["false_alarm_rate_high"] < 0.5
    only_none = make_dataset(tmp_path / "none", rows[:16:2], 5000)
    result, _, _ = judge(run, only_none)
    assert result["overall"]["mcc"] is None
    assert "False-alarm rate 0.00" in result["sentence"]


def test_terminal_shows_the_worst_slices_and_counts_the_others(run, night_city):
    result, _, _ = judge(run, night_city)
    result["slices"] = [slicing for slicing in result["slices"] if slicing["title"] == "source"]
    worst = result["slices"][0]["parts"][0]
    result["slices"][0]["parts"] = [worst | {"name": f"city-{number}"} for number in range(15)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(format_elsewhere(result))
    shown = console.export_text()
    assert [f"city-{number} " in shown for number in range(15)] == [True] * 12 + [False] * 3
    assert "and 3 more" in shown


def elsewhere_figures():
    from roadwork.evaluation.elsewhere_results import FIGURES

    return FIGURES


def test_hugging_face_data_and_the_default_folder(model_folder, night_city, tmp_path, monkeypatch):
    frame = pd.read_csv(night_city / "labels.csv").drop(columns="filename")
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(night_city.glob("*.png"))]
    (tmp_path / "hub").mkdir()
    frame.assign(image=images).to_parquet(tmp_path / "hub" / "validation.parquet")
    monkeypatch.chdir(tmp_path)
    result, folder = evaluate_elsewhere(model_folder, "hub", [*FAST, "data.hub.split=validation"])
    assert folder == Path("outputs/on") / model_folder.name / "hub"
    assert result["overall"]["n"] == 40
    assert result["val_test"] is None
    assert any(slicing["title"] == "source" for slicing in result["slices"])


def break_photo(root):
    (root / "day_01.png").write_bytes(b"not a photo")


def relabel(root):
    frame = pd.read_csv(root / "labels.csv")
    frame["label"] = frame["label"].map({0: "clear", 1: "works"})
    frame.to_csv(root / "labels.csv", index=False)


def drop_labels(root):
    pd.read_csv(root / "labels.csv").drop(columns="label").to_csv(root / "labels.csv", index=False)


def split_pair(root):
    make_pairs(root, wrong=0)
    lines = (root / "pairs.csv").read_text().splitlines()
    (root / "pairs.csv").write_text("\n".join(lines[:-1]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop_labels, "data.columns.label"),
        (relabel, "data.class_names"),
        (break_photo, "day_01.png"),
        (split_pair, "pairs.csv"),
        (shutil.rmtree, "--on"),
    ],
)
def test_unusable_data_gives_one_clear_error(run, night_city, tmp_path, change, named):
    root = shutil.copytree(night_city, tmp_path / "city")
    change(root)
    with pytest.raises(DataError, match=named):
        judge(run, root)
    assert not (run / "on").exists()


def test_overrides_describe_the_dataset(run, night_city, tmp_path):
    root = shutil.copytree(night_city, tmp_path / "city")
    relabel(root)
    break_photo(root)
    result, _, excluded = judge(run, root, "data.class_names={clear: 0, works: 1}", "data.max_unreadable=0.1")
    assert (result["unreadable"], result["overall"]["n"]) == (1, 39)
    assert excluded["reason"].tolist() == ["unreadable"]
    for override in ("model.name=vit", f"data.root={root}", "data.rot=1"):
        with pytest.raises(ConfigError, match=override.partition("=")[0]):
            judge(run, root, override)


def test_nothing_left_is_an_error(run, world):
    with pytest.raises(DataError, match="72 same id, 16 val_test"):
        judge(run, world / "photos")


def test_results_of_another_dataset_are_not_replaced(run, night_city, tmp_path):
    judge(run, night_city)
    other = shutil.copytree(night_city, tmp_path / "other" / "night-city")
    with pytest.raises(DataError, match="--out"):
        judge(run, other)


def test_command_prints_a_table_and_json(run, night_city):
    def invoke(*arguments):
        return CliRunner().invoke(app, ["evaluate", str(run), *map(str, arguments)], env={"COLUMNS": "80"})

    shown = invoke("--on", night_city, *FAST)
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines()[:-1])) <= 80
    for part in ("night-city", "Balanced accuracy", "source", "0.42 below val_test", "over 100 km"):
        assert part in " ".join(shown.stdout.split())
    section = elsewhere_section(read_run(run))
    page = " ".join(render_page("run", "Run", [section]).split())
    assert [row["name"] for row in section.shown["rows"]] == ["night-city", "night", "day"]
    for part in ("Other datasets", "<small>-0.42</small>", "0.42 below val_test", "<td>over 100 km"):
        assert part in page
    as_json = invoke("--on", night_city, "--json", *FAST)
    assert json.loads(as_json.stdout)["overall"]["n"] == 40
    assert invoke("--json").exit_code == invoke("data.mode=local").exit_code == 2
    assert invoke("--on", night_city, "--profile", "streetvision-2026-01").exit_code == 2
