"""Facts about the files that predict the label are found; content and chance are not reported."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from roadwork.config import load_config, to_settings
from roadwork.data.open import open_dataset
from roadwork.preflight.shortcuts import measure_shortcuts

N = 120


def write_dataset(root, save, names="photo_{row:03d}{suffix}", **columns):
    """N noise photos with alternating labels; `save(row, label)` gives suffix, size and options of the file."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    rows = []
    for row in range(N):
        label = row % 2
        suffix, size, options = save(row, label)
        name = names.format(row=row, suffix=suffix, label=label)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name, **options)
        rows.append({"filename": f"images/{name}", "label": label} | {k: v(row, label) for k, v in columns.items()})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    return root


def measure(root, labels=None):
    overrides = [f"data.root={root}", "data.splitting.near_duplicates=false"]
    dataset = open_dataset(to_settings(load_config("configs/config.yaml", overrides)))
    names = dataset.split_names.copy()
    if labels is not None:
        dataset.table.labels[:] = labels(names, dataset.table.labels)
    return measure_shortcuts(dataset, names)


def plain(row, label):
    return ".jpg", (48, 32), {"quality": 80}


def by_label(none, roadwork):
    return lambda row, label: roadwork if label else none


@pytest.mark.parametrize(
    ("fact", "save"),
    [
        ("file type", by_label((".png", (48, 32), {}), (".jpg", (48, 32), {}))),
        ("image size", by_label((".jpg", (48, 32), {}), (".jpg", (96, 64), {}))),
        ("aspect ratio", by_label((".jpg", (48, 32), {}), (".jpg", (48, 48), {}))),
        ("compression", by_label((".jpg", (48, 32), {"quality": 80}), (".jpg", (48, 32), {"quality": 90}))),
    ],
)
def test_a_planted_fact_of_the_file_is_found(tmp_path, fact, save):
    shortcuts = measure(write_dataset(tmp_path / "data", save))
    assert shortcuts.is_warning
    assert {score.fact: score.mcc for score in shortcuts.scores}[fact] > 0.95
    assert shortcuts.together.mcc > 0.95


def test_file_names_that_give_the_class_away_are_found(tmp_path):
    root = write_dataset(tmp_path / "data", plain, names="{label}{row:03d}{suffix}")
    assert not measure(root).is_warning  # digits alone are a number, not a pattern
    root = write_dataset(tmp_path / "named", lambda row, label: ("cone.jpg" if label else "road.jpg", (48, 32), {}))
    assert measure(root).scores[0].fact == "file name"


def test_a_camera_in_the_exif_header_is_found(tmp_path):
    def save(row, label):
        exif = Image.Exif()
        exif[0x010F], exif[0x0110] = "Maker", ("phone" if label else "dashcam")
        return ".jpg", (48, 32), {"exif": exif}

    assert {s.fact: s.mcc for s in measure(write_dataset(tmp_path / "data", save)).scores}["camera"] > 0.95


def test_hours_and_places_that_predict_the_label_are_found(tmp_path):
    root = write_dataset(
        tmp_path / "data",
        plain,
        captured_at=lambda row, label: f"2026-05-{1 + row % 28:02d}T{9 + 5 * label:02d}:30:00",
        city=lambda row, label: ("Lyon", "Turin")[label if row % 10 else 1 - label],
    )
    scores = {score.fact: score.mcc for score in measure(root).scores}
    assert scores["hour"] > 0.95
    assert 0.6 < scores["column city"] < 0.95


def test_file_size_alone_is_reported_without_a_warning(tmp_path):
    def save(row, label):
        return ".jpg", (48, 32), {"quality": 80, "comment": b"x" * 4000 * label}

    shortcuts = measure(write_dataset(tmp_path / "data", save, source=lambda row, _: "ab"[row // 2 % 2]))
    assert shortcuts.scores[0].fact == "file size"
    assert shortcuts.scores[0].mcc > 0.95
    assert not shortcuts.is_warning


def test_facts_that_vary_by_chance_are_no_shortcut(tmp_path):
    rng = np.random.default_rng(1)

    def save(row, label):
        return ".jpg", (48 + 8 * int(rng.integers(4)), 32), {"quality": int(rng.integers(70, 95))}

    root = write_dataset(tmp_path / "data", save, city=lambda row, label: "ABCD"[int(rng.integers(4))])
    assert not measure(root).is_warning


def test_labels_of_val_test_are_not_used(tmp_path):
    save = by_label((".png", (48, 32), {}), (".jpg", (48, 32), {}))
    root = write_dataset(tmp_path / "data", save)
    flipped = measure(root, lambda names, labels: np.where(names == "val_test", 1 - labels, labels))
    assert flipped == measure(root)


def test_too_few_groups_are_not_measured(tmp_path):
    root = write_dataset(tmp_path / "data", plain, sequence_id=lambda row, label: f"{label}{row % 8}")
    shortcuts = measure(root)
    assert shortcuts.together is None
    assert not shortcuts.is_warning
    assert "3 groups" in str(shortcuts)


def test_verify_prints_the_shortcut_as_json(tmp_path, capsys):
    from roadwork.cli import main

    root = write_dataset(tmp_path / "data", by_label((".png", (48, 32), {}), (".jpg", (48, 32), {})))
    overrides = [f"data.root={root}", "data.splitting.near_duplicates=false"]
    for command in (["split"], ["split", "--verify", "--json"]):
        with pytest.raises(SystemExit):
            main([*command, *overrides])
    text = capsys.readouterr().out
    found = json.loads(text[text.index("{") :])["shortcuts"]
    assert found["is_warning"]
    assert found["scores"][0]["fact"] in ("file type", "compression")
