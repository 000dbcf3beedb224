"""The real command line on tiny generated data, from data to figures."""

import csv
import json
import shutil

import pandas as pd
import pytest
from fixtures.config import CHECKOUT, TINY_MODEL
from PIL import Image
from sklearn.metrics import matthews_corrcoef

from roadwork.cli import main
from roadwork.core.files import sha256_of


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


TINY = [*TINY_MODEL, "training.epochs=2", "experiment=tiny"]


def test_train_evaluate_resume(in_tmp, demo_root, capsys):
    assert run("train", f"data.root={demo_root}", *TINY) == 0
    assert "Best val_select MCC" in capsys.readouterr().out
    folder = (in_tmp / "outputs/tiny/latest").resolve()
    for name in (
        "config.yaml",
        "splits.json",
        "metrics.jsonl",
        "manifest.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ):
        assert (folder / name).is_file(), name
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in epochs] == [0, 1]
    assert {"val_select/mcc", "train/mcc_mixed", "train/loss", "lr"} <= set(epochs[0])

    assert run("evaluate", "outputs/tiny/latest") == 0
    shown = capsys.readouterr().out
    assert "opened 1 time" in shown
    results = json.loads((folder / "results.json").read_text())["val_test"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert set(predictions["split"]) == {"val_select", "val_calib", "val_test"}
    assert {"city", "weather", "distance_km", "group", "logit_none", "probability"} <= set(predictions)
    tested = predictions[predictions["split"] == "val_test"]
    assert results["mcc"] == pytest.approx(matthews_corrcoef(tested["label"], tested["probability"] >= 0.5))
    assert results["n"] == len(tested)
    assert results["leaks"] == []
    assert results["mcc_low"] <= results["mcc"] <= results["mcc_high"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["val_test_openings"] == 1
    assert all(sha256_of(folder / name) == digest for name, digest in manifest["sha256"].items())
    assert run("evaluate", "outputs/tiny/latest") == 0
    assert "opened 2 time" in capsys.readouterr().out

    assert run("train", "--resume", f"data.root={demo_root}", *TINY[:-2], "experiment=tiny", "training.epochs=3") == 0
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in epochs] == [0, 1, 2]


def test_figures_of_a_random_split_are_flagged(in_tmp, demo_root, capsys):
    data = (f"data.root={demo_root}", "data.splits_file=random.json", "data.splitting.strategy=random")
    assert run("split", *data) == 0
    assert run("train", *data, *TINY_MODEL, "training.epochs=1", "experiment=tiny") == 0
    capsys.readouterr()
    assert run("evaluate", "outputs/tiny/latest") == 0
    assert "a RANDOM split, which leaks by design" in " ".join(capsys.readouterr().out.split())
    (leaks,) = json.loads((in_tmp / "outputs/tiny/latest/results.json").read_text())["val_test"]["leaks"]
    assert "a RANDOM split, which leaks by design" in leaks


def test_the_best_checkpoint_gives_the_logged_mcc(in_tmp, demo_root):
    """What evaluate loads is what validation judged: averaged weights, buffers and all."""
    assert run("train", f"data.root={demo_root}", *TINY, "training.lr=0.01") == 0
    assert run("evaluate", "outputs/tiny/latest") == 0
    folder = in_tmp / "outputs/tiny/latest"
    predictions = pd.read_parquet(folder / "predictions.parquet")
    selected = predictions[predictions["split"] == "val_select"]
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val_select/mcc"] for line in epochs)
    assert matthews_corrcoef(selected["label"], selected["probability"] >= 0.5) == pytest.approx(best, abs=1e-6)


def test_the_same_run_from_parquet(in_tmp, demo_parquet, capsys):
    overrides = ["data.mode=huggingface", f"data.hub.name={demo_parquet}", *TINY]
    assert run("train", *overrides) == 0
    assert run("evaluate", "outputs/tiny/latest") == 0
    assert json.loads((in_tmp / "outputs/tiny/latest/results.json").read_text())["val_test"]["n"] >= 20


def test_photos_without_any_position(in_tmp, demo_root):
    with (demo_root / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            folder = in_tmp / "photos" / row["label"]
            folder.mkdir(parents=True, exist_ok=True)
            with Image.open(demo_root / row["filename"]) as image:
                image.save(folder / row["filename"].rpartition("/")[2], exif=b"")
    assert run("train", "data.root=photos", "data.gps_sampling.enabled=false", *TINY) == 0
    assert run("evaluate", "outputs/tiny/latest") == 0
    assert pd.read_parquet(in_tmp / "outputs/tiny/latest/predictions.parquet")["distance_km"].isna().all()


def test_the_same_run_from_class_folders(in_tmp, demo_root):
    with (demo_root / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            folder = in_tmp / "photos" / row["label"]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(demo_root / row["filename"], folder)
    assert run("train", "data.root=photos", *TINY, "data.gps_sampling.n_clusters=auto") == 0
    assert run("evaluate", "outputs/tiny/latest") == 0


@pytest.mark.parametrize("adapter", ["lora", "adalora", "vera", "ia3"])
def test_a_run_with_an_adapter(in_tmp, demo_root, adapter):
    (in_tmp / "configs/model").mkdir(parents=True)
    (in_tmp / "configs/model/tiny_vit.yaml").write_text(
        "name: vit\npretrained: false\nconfig: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,"
        " intermediate_size: 32, patch_size: 8}\n"
    )
    overrides = (f"data.root={demo_root}", "model=tiny_vit", *TINY[1:], f"training.adapter={adapter}")
    assert run("train", *overrides) == 0
    assert run("evaluate", "outputs/tiny/latest") == 0
    folder = in_tmp / "outputs/tiny/latest"
    wiring = json.loads((folder / "manifest.json").read_text())["wiring"]
    assert all(row["works"] for row in wiring)
    assert ("AdaLoRA" in {row["wire"] for row in wiring}) == (adapter == "adalora")
    selected = pd.read_parquet(folder / "predictions.parquet").query("split == 'val_select'")
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val_select/mcc"] for line in epochs)
    assert matthews_corrcoef(selected["label"], selected["probability"] >= 0.5) == pytest.approx(best, abs=1e-6)


def test_unreadable_images_are_listed_and_not_trained_on(in_tmp, demo_root, capsys):
    shutil.copytree(demo_root, in_tmp / "photos")
    missing, cut = sorted((in_tmp / "photos/images").iterdir())[:2]
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    assert run("train", "data.root=photos", *TINY) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert missing.name in said
    assert cut.name in said
    assert not (in_tmp / "outputs").exists()
    assert run("train", "data.root=photos", *TINY, "data.max_unreadable=0.02") == 0
    assert run("evaluate", "outputs/tiny/latest") == 0
    assert json.loads((in_tmp / "outputs/tiny/latest/results.json").read_text())["val_test"]["unreadable"] == 2
    predictions = pd.read_parquet(in_tmp / "outputs/tiny/latest/predictions.parquet")
    assert not predictions["filename"].str.contains(f"{missing.name}|{cut.name}").any()


def test_split_writes_what_training_then_uses(in_tmp, demo_root, capsys):
    own = in_tmp / "own.json"
    arguments = (f"data.root={demo_root}", f"data.splits_file={own}", "data.splitting.seed=7")
    assert run("split", *arguments) == 0
    assert "train 144 (60.0%" in capsys.readouterr().out
    assert run("train", *arguments, *TINY) == 0
    used = json.loads((in_tmp / "outputs/tiny/latest/splits.json").read_text())
    assert used == json.loads(own.read_text())


def test_dry_run_prints_the_contract_lines(in_tmp, demo_root, capsys):
    assert (
        run(
            "train",
            "--config",
            str(CHECKOUT / "configs/config.yaml"),
            "--dry-run",
            f"data.root={demo_root}",
            *TINY_MODEL,
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "✅ MCC callback initialized" in shown
    assert "✅ EMA callback initialized (decay=0.999)" in shown
    assert "❌" not in shown
    assert not (in_tmp / "outputs").exists()


def test_preflight(in_tmp, demo_root, capsys):
    assert run("preflight", "--json", f"data.root={demo_root}", *TINY_MODEL) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {"Python", "torch", "images decode", "GPS", "splits", "clusters against brackets", "disk", "time"} <= {
        c["name"] for c in checks
    }
    assert not [check for check in checks if check["status"] == "blocker"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "data.gps_samplng.enabled=true"], 2, "Did you mean data.gps_sampling?"),
        (["train", "training.epochs"], 2, "key=value"),
        (["train", "--config", "configs/confg.yaml"], 2, "Did you mean configs/config.yaml"),
        (["train", "data.root=nowhere"], 1, "nowhere"),
        (["preflight", "data.root=nowhere"], 1, "nowhere"),
        (["evaluate", "outputs/none"], 1, "no run folder"),
        (["split", "data.root=nowhere"], 1, "nowhere"),
        (["train", "data.gps_sampling.weight_brackets=[[0,50,5],[60,inf,1]]", "data.root={demo}"], 2, "50"),
        (["train", "data.augmentation.train.mode=latest", "data.root={demo}"], 2, "Unknown augmentation mode"),
        (["demo-data", "{demo}"], 1, "not an empty folder"),
        (["split", "data.root={demo}", "data.splits_file=/dev/null/splits.json"], 1, "'/dev/null'"),
        (["train", "--resume", "data.root={demo}"], 1, "no run folder"),
        (["train", "training.lr=inf"], 2, "training.lr is inf"),
        (["train", "training.seed=99999999999"], 2, "training.seed is 99999999999"),
        (["train", "training.accelerator=abacus", "data.root={demo}"], 2, "training.accelerator='abacus'"),
        (["train", "evaluation.bootstrap_draws=0"], 2, "evaluation.bootstrap_draws is 0"),
        (["train", "data.root=${{"], 2, "The override 'data.root=${{' cannot be read"),
        (["demo-data", "new", "--size", "640"], 2, "WIDTHxHEIGHT"),
    ],
)
def test_a_users_mistake_is_one_clear_message(in_tmp, demo_root, capsys, arguments, code, said):
    filled = [argument.format(demo=demo_root) if "{demo}" in argument else argument for argument in arguments]
    assert run(*filled, *(TINY_MODEL if filled[0] in ("train", "preflight") else ())) == code
    captured = capsys.readouterr()
    message = captured.err + captured.out
    assert said in " ".join(message.split())
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("key", "value"), [("ratios", [1, 2]), ("ratios", {"train": "most"}), ("set_aside", None), ("fingerprint", 5)]
)
def test_a_splits_file_with_a_damaged_header(in_tmp, demo_root, capsys, key, value):
    own = in_tmp / "own.json"
    assert run("split", f"data.root={demo_root}", f"data.splits_file={own}") == 0
    own.write_text(json.dumps(json.loads(own.read_text()) | {key: value}))
    assert run("train", f"data.root={demo_root}", f"data.splits_file={own}", *TINY) == 1
    assert f"own.json: {key} is" in " ".join(capsys.readouterr().err.split())


def test_split_does_not_overwrite_a_users_own_file(in_tmp, demo_root, capsys):
    own = in_tmp / "own.json"
    own.write_text('{"train": []}')
    assert run("split", f"data.root={demo_root}", f"data.splits_file={own}") == 1
    assert "is not overwritten" in " ".join(capsys.readouterr().err.split())
    assert own.read_text() == '{"train": []}'


@pytest.mark.parametrize(("content", "said"), [("lon\n1\n", "longitude"), ("", "cannot be read as csv")])
def test_a_damaged_deployment_file(in_tmp, demo_root, capsys, content, said):
    (in_tmp / "places.csv").write_text(content)
    assert run("train", f"data.root={demo_root}", "data.gps_sampling.target=places.csv", *TINY) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_evaluate_refuses_a_damaged_run_and_counts_no_opening(in_tmp, demo_root, capsys):
    assert run("train", f"data.root={demo_root}", *TINY) == 0
    folder = (in_tmp / "outputs/tiny/latest").resolve()
    splits = json.loads((folder / "splits.json").read_text())
    splits["splits"]["train"], splits["splits"]["val_test"] = splits["splits"]["val_test"], splits["splits"]["train"]
    for name, content, said in (
        ("config.yaml", "{}", "config.yaml"),
        ("checkpoints/best.ckpt", "damaged", "best.ckpt"),
        ("splits.json", json.dumps(splits | {"ratios": {}, "shares": {}}), "splits.json"),
        ("manifest.json", "{", "manifest.json"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(content)
        assert run("evaluate", str(folder)) != 0
        assert said in " ".join(capsys.readouterr().err.split())
        (folder / name).write_bytes(whole)
    assert "val_test_openings" not in json.loads((folder / "manifest.json").read_text())


def test_every_command_has_help_with_an_example(capsys):
    for command in ("demo-data", "preflight", "split", "train", "evaluate", "map", "experiment cv", "experiment gps"):
        assert run(*command.split(), "--help") == 0
        assert "Example: roadwork" in " ".join(capsys.readouterr().out.split())
