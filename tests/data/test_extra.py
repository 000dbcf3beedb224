"""Mixed datasets: rows, images, groups, splits and caches. Without them nothing changes."""

import csv
import hashlib
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadwork.config import to_settings
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import UnreadableLedger
from roadwork.data.features import compute_features
from roadwork.data.grouping.near_duplicates import ImageHashes
from roadwork.data.images import identify_image
from roadwork.data.local import read_local
from roadwork.data.mixed_datasets import find_mixture
from roadwork.data.open import find_groups, find_splits
from roadwork.data.prepared.copy import find_copy
from roadwork.data.prepared.plan import plan_copy
from roadwork.data.prepared.write import lock_copy, write_copy
from roadwork.data.samplers.build import UniformSampler
from roadwork.data.source import dataset_key, read_dataset
from roadwork.data.splitting.check import check_splits
from roadwork.data.splitting.splits import make_splits
from roadwork.data.splitting.train_only import find_duplicates, make_groups_of_split_rows
from roadwork.data.table import ExtraRows
from roadwork.experiments.folds import make_fold_splits
from roadwork.experiments.gps_conditions import prepare_experiment
from roadwork.metrics.predictions import build_predictions
from roadwork.models.build import build_model
from roadwork.settings import SPLIT_NAMES

N_NEW = 24


@pytest.fixture(scope="module")
def main(demo_root):
    """The main dataset's table, without anything mixed in."""
    return read_local(demo_root, {}, {"None": 0, "Roadwork": 1})[0]


class Generated:
    """A folder of generated images, some of them made from photos of the main dataset."""

    def __init__(self, root: Path, main_root: Path, made_from=()):
        root.mkdir(parents=True)
        self.root, rng, rows = root, np.random.default_rng(0), []
        for number in range(N_NEW):
            noise = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8))
            noise.resize((64, 48), Image.Resampling.BICUBIC).save(root / f"{number}.jpg")
            rows.append({"filename": f"{number}.jpg", "label": number % 2, "seed": number, "from": ""})
        for row_id in made_from:
            name = Path(row_id).name
            with Image.open(main_root / row_id) as photo:
                photo.save(root / name, quality=60)
            rows.append({"filename": name, "label": 1, "seed": 1000, "from": name})
        self.rows = rows
        self.write()

    def write(self, **columns):
        rows = [row | {name: value(row) for name, value in columns.items()} for row in self.rows]
        with (self.root / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


@pytest.fixture
def generated(tmp_path, demo_root):
    return Generated(tmp_path / "sdxl", demo_root)


@pytest.fixture
def settings(tiny_config):
    """Settings with one mixed dataset, as YAML."""

    def make(root, how="", *overrides):
        return to_settings(tiny_config(f"data.extra=[{{root: {root}, origin: generated, {how}}}]", *overrides))

    return make


def read_all(config):
    table, source = read_dataset(config.data)
    groups = find_groups(config.data, table, source)
    return table, groups, find_splits(config, table, groups)


def test_without_extra_data_nothing_changes(tiny_config, demo_root, main):
    cfg = tiny_config()
    data = to_settings(cfg).data
    table, _ = read_dataset(data)
    assert table.extra is None
    assert list(table.slices) == list(main.slices)
    assert table.fingerprint() == table.source_fingerprint() == main.fingerprint()
    order, digest = np.argsort(main.ids), hashlib.sha256()
    for values in (main.ids, main.labels, np.round(main.gps, 7), main.sequence_ids):
        digest.update("\x1f".join(map(str, values[order].tolist())).encode())
    assert table.fingerprint() == f"sha256:{digest.hexdigest()}"
    assert dataset_key(data) == hashlib.sha256(str(demo_root.resolve()).encode()).hexdigest()[:16]
    assert find_mixture(data, table, np.arange(9)) is None
    assert not table.is_extra.any()
    off = NATIXDataModule(tiny_config("data.gps_sampling.enabled=false"))
    off.setup("fit")
    assert type(off.train_dataloader().sampler) is UniformSampler


def test_mixed_rows_have_their_own_images(settings, generated, main, demo_root):
    table, source = read_dataset(settings(generated.root).data)
    n = len(main)
    assert table.ids.tolist() == [*main.ids, *(f"sdxl/{number}.jpg" for number in range(N_NEW))]
    np.testing.assert_array_equal(table.gps[:n], main.gps)
    assert np.isnan(table.gps[n:]).all()
    assert table.slices["source"].tolist() == [demo_root.name] * n + ["sdxl"] * N_NEW
    assert table.slices["origin"].tolist() == ["real"] * n + ["generated"] * N_NEW
    assert table.slices["city"][:n].tolist() == main.slices["city"].tolist()
    assert table.slices["city"][n:].isna().all()
    assert source.read(n + 3) == (generated.root / "3.jpg").read_bytes()
    assert source.read(0) == (demo_root / main.filenames[0]).read_bytes()
    frame = build_predictions(
        table, np.full(len(table), "val_test"), table.ids, np.zeros((len(table), 2)), table.gps[:, 0]
    )
    assert frame["origin"].value_counts().to_dict() == {"real": n, "generated": N_NEW}


def test_main_dataset_of_parquet_with_a_folder(tiny_config, demo_parquet, generated):
    hub = f"data.hub.name={demo_parquet}"
    extra = f"data.extra=[{{root: {generated.root}, origin: generated}}]"
    table, source = read_dataset(to_settings(tiny_config("data.mode=huggingface", hub, extra)).data)
    assert source.read(len(table) - 1) == (generated.root / f"{N_NEW - 1}.jpg").read_bytes()
    assert source.read_ends(0).first == source.read(0)[:16]
    status = (generated.root / "0.jpg").stat()
    assert identify_image(source, len(table) - N_NEW) == f"{status.st_size}:{status.st_mtime_ns}"


def test_origins_row_by_row_and_columns_of_the_same_name(settings, generated):
    generated.write(origin=lambda row: "Real" if row["seed"] < 5 else "", source=lambda row: "a camera")
    table, _ = read_dataset(settings(generated.root).data)
    assert (table.slices["origin"] == "generated").sum() == N_NEW - 5
    assert set(table.slices["data_source"].dropna()) == {"a camera"}
    generated.write(origin=lambda row: "Berlin")
    table, _ = read_dataset(settings(generated.root).data)
    assert (table.slices["origin"] == "generated").sum() == N_NEW
    assert set(table.slices["data_origin"].dropna()) == {"Berlin"}
    generated.write(origin=lambda row: "real" if row["seed"] else "rael")
    with pytest.raises(DataError, match=r"sdxl/0\.jpg.*'rael'"):
        read_dataset(settings(generated.root).data)


def test_generated_main_dataset_is_one_slice(tiny_config):
    table, _ = read_dataset(to_settings(tiny_config("data.origin=generated")).data)
    assert set(table.slices["origin"]) == {"generated"}
    assert table.extra is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("root: a, origin: real, share: 0.3, weight: 2", "share.*weight"),
        ("root: a, origin: painted", "painted.*real, generated"),
        ("root: a", "origin.*''"),
        ("origin: real", "neither.*root.*hub"),
        ("root: a, hub: {name: b/c}, origin: real", "both.*root.*hub"),
        ("root: a, origin: real, share: 1.0", r"share.*below 1"),
        ("root: a, origin: real, splits: val_test", "splits.*val_test.*null"),
        ("root: x/local, origin: real", "'local'"),
        ("root: a, origin: real, name: a/b", "a/b.*slash"),
        ("root: a, origin: real, wieght: 2", r"data\.extra\[0\]\.wieght.*data\.extra\[0\]\.weight"),
        ("root: a, origin: real}, {root: a, origin: real", "'a'"),
        ("root: a, origin: real, share: 0.5}, {root: b, origin: real, share: 0.6", r"1\.1\b"),
    ],
)
def test_invalid_settings_are_rejected(tiny_config, extra, message):
    with pytest.raises(ConfigError, match=message):
        to_settings(tiny_config(f"data.extra=[{{{extra}}}]"))


def test_errors_contain_the_dataset_and_its_keys(settings, generated):
    with pytest.raises(DataError, match=r"data\.extra\[0\]\.root.*nowhere/x"):
        read_dataset(settings("nowhere/x").data)
    with pytest.raises(DataError, match=r"data\.extra\[0\] \(sdxl\).*data\.extra\[0\]\.columns\.label"):
        read_dataset(settings(generated.root, "columns: {label: is_it}").data)
    with pytest.raises(ConfigError, match="'images/'"):
        read_dataset(settings(generated.root, "name: images").data)


def test_extra_dataset_has_its_own_class_names(settings, generated):
    generated.write(label=lambda row: "works" if row["seed"] % 3 else "nothing")
    table, _ = read_dataset(settings(generated.root, "class_names: {works: 1, nothing: 0}").data)
    assert table.labels[-N_NEW:].tolist() == [int(number % 3 > 0) for number in range(N_NEW)]


def test_split_together_by_group(settings, demo_root, tmp_path, main):
    made_from = main.ids[::11]
    config = settings(Generated(tmp_path / "img2img", demo_root, made_from).root, "splits: null")
    table, groups, splits = read_all(config)
    assert not check_splits(splits, table, groups).leaks
    split = dict(zip(table.ids, splits.names_by_row(table), strict=True))
    assert {split[f"img2img/{Path(row_id).name}"] for row_id in made_from} >= {"train", "val_test"}
    for row_id in made_from:  # they resemble their photos
        assert split[f"img2img/{Path(row_id).name}"] == split[row_id]
    assert set(split.values()) >= set(SPLIT_NAMES)


def test_generated_from_groups_images_that_do_not_look_alike(settings, generated, main):
    originals = dict(enumerate([*main.ids[: N_NEW // 2 : 2], "lost.jpg", "lost.jpg"]))
    generated.write(**{"from": lambda row: Path(originals.get(row["seed"], "")).name})
    how = "generated_from: from"
    config = settings(generated.root, how, "data.splitting.near_duplicates=false")
    table, groups, splits = read_all(config)
    name = dict(zip(table.ids, groups.names, strict=True))
    for number, original in originals.items():
        if original != "lost.jpg":
            assert name[f"sdxl/{number}.jpg"] == name[original]
    lost = [number for number, original in originals.items() if original == "lost.jpg"]
    assert name[f"sdxl/{lost[0]}.jpg"] == name[f"sdxl/{lost[1]}.jpg"]
    assert not check_splits(splits, table, groups).leaks
    with pytest.raises(ConfigError, match="further columns"):
        read_all(settings(generated.root, "generated_from: parent"))
    generated.write(**{"from": lambda row: "gone.jpg"})
    with pytest.raises(DataError, match=r"\b1 originals"):
        read_all(config)


def splits_file(config, tmp_path):
    """The main dataset's own splits, as `roadwork split` writes them."""
    path = tmp_path / "main-splits.json"
    table, source = read_dataset(config.data)
    make_splits(table, find_groups(config.data, table, source), config.data.splits, config.data.splitting).write(path)
    return path


def test_train_only_rows_and_their_leaks_stay_out_of_splits(settings, tiny_config, demo_root, tmp_path, main, caplog):
    path = splits_file(to_settings(tiny_config()), tmp_path)
    own = json.loads(path.read_text())
    made_from = [ids[0] for ids in own["splits"].values()]  # one photo of each split
    extra = Generated(tmp_path / "img2img", demo_root, made_from)
    config = settings(extra.root, "splits: train", f"data.splits_file={path}")
    with caplog.at_level(logging.WARNING):
        table, groups, splits = read_all(config)
    report = check_splits(splits, table, groups)
    assert "3 of 28 rows of data.extra" in caplog.text
    for name in SPLIT_NAMES[1:]:
        assert splits.ids[name] == own["splits"][name]
    added = set(splits.ids["train"]) - set(own["splits"]["train"])
    assert added == {f"img2img/{n}.jpg" for n in range(N_NEW)} | {f"img2img/{Path(made_from[0]).name}"}
    assert (report.train_only, len(report.leaks), report.shares["val_test"]) == (25, 0, own["shares"]["val_test"])
    again = tmp_path / "run-splits.json"  # a run's own splits file
    splits.write(again)
    table, groups, restored = read_all(settings(extra.root, "splits: train", f"data.splits_file={again}"))
    assert {name: set(ids) for name, ids in restored.ids.items()} == {n: set(i) for n, i in splits.ids.items()}
    check_splits(restored, table, groups)
    np.testing.assert_array_equal(groups.names[: len(main)], find_groups_of_main(tiny_config))


def test_near_duplicates_stay_grouped_without_train_only_row(main):
    n = 80
    rows = np.arange(n)
    ids = np.array(["a/0.jpg", *(f"b{row:02d}.jpg" for row in rows[1:])], dtype=object)
    crowd = replace(main.take(rows), ids=ids, sequence_ids=np.full(n, ""), gps=np.full((n, 2), np.nan))
    crowd = replace(crowd, extra=ExtraRows(frozenset({"a/0.jpg"}), frozenset({"a/0.jpg"})))
    picture = np.tile(np.arange(256, dtype=np.uint8), (n, 1))
    alike = ImageHashes(rows.astype(np.uint64), np.full(n, 7, np.uint64), picture, np.full(n, True))
    groups = make_groups_of_split_rows(
        crowd, buffer_km=1.0, max_group_share=1.0, duplicates=find_duplicates(crowd, alike)
    )
    assert len(set(groups.names[1:])) == 1


def find_groups_of_main(tiny_config):
    data = to_settings(tiny_config()).data
    return find_groups(data, *read_dataset(data)).names


def test_train_only_row_near_a_test_photo(settings, tiny_config, generated, tmp_path, main):
    path = splits_file(to_settings(tiny_config()), tmp_path)
    test_ids = set(json.loads(path.read_text())["splits"]["val_test"])
    row = next(row for row in np.flatnonzero(main.has_gps) if main.ids[row] in test_ids)
    latitude, longitude = main.gps[row]
    generated.write(
        latitude=lambda r: latitude + (0.005 if r["seed"] == 0 else 0.5 + r["seed"]),
        longitude=lambda r: longitude,
        sequence=lambda r: "walk" if r["seed"] in (0, 1) else "",
    )
    table, groups, splits = read_all(settings(generated.root, "splits: train", f"data.splits_file={path}"))
    assert {"sdxl/0.jpg", "sdxl/1.jpg"} <= set(splits.set_aside)  # 0.6 km away, and of its sequence
    assert "sdxl/2.jpg" in splits.ids["train"]
    assert not check_splits(splits, table, groups).leaks


def test_splits_file_without_the_extra_dataset_is_rejected(settings, tiny_config, generated, tmp_path, main):
    path = splits_file(to_settings(tiny_config()), tmp_path)
    with pytest.raises(SplitError, match=r"\bsdxl\b.*roadwork split.*splits: train"):
        read_all(settings(generated.root, "", f"data.splits_file={path}"))
    mine = tmp_path / "mine.json"  # a user's own, by the last part of file names, one of which is generated too
    lists = {name: [Path(i).name for i in ids] for name, ids in json.loads(path.read_text())["splits"].items()}
    mine.write_text(json.dumps(lists))
    (generated.root / "0.jpg").rename(generated.root / lists["train"][0])
    generated.write(filename=lambda row: row["filename"] if row["seed"] else lists["train"][0])
    with pytest.raises(SplitError, match=r"\bsdxl\b"):
        read_all(settings(generated.root, "", f"data.splits_file={mine}"))
    _, _, splits = read_all(settings(generated.root, "splits: train", f"data.splits_file={mine}"))
    assert len(splits.ids["train"]) == len(lists["train"]) + N_NEW
    lists["val_test"].append("sdxl/5.jpg")
    mine.write_text(json.dumps(lists))
    with pytest.raises(SplitError, match=r"'sdxl/5\.jpg'.*val_test"):
        read_all(settings(generated.root, "splits: train", f"data.splits_file={mine}"))


def test_folds_hold_out_no_train_only_row(settings, generated):
    table, groups, splits = read_all(settings(generated.root, "splits: train"))
    for fold in make_fold_splits(table, groups, splits, 3, seed=0):
        named = {row_id for ids in (*fold.ids.values(), fold.set_aside) for row_id in ids}
        assert named == set(table.ids[~table.is_train_only])


def test_label_corrections_apply_to_extra_data_and_keep_splits(settings, tiny_config, generated, tmp_path, main):
    path = splits_file(to_settings(tiny_config()), tmp_path)
    answers = tmp_path / "label_audit.csv"
    answers.write_text(
        f"id,label,corrected_label\nsdxl/0.jpg,0,1\nsdxl/1.jpg,1,drop\n{main.ids[0]},{main.labels[0]},drop\n"
    )
    how = ("splits: train", f"data.splits_file={path}", f"data.label_corrections={answers}")
    table, groups, splits = read_all(settings(generated.root, *how))
    assert table.labels[table.ids == "sdxl/0.jpg"] == 1
    assert {"sdxl/1.jpg", main.ids[0]} <= set(splits.set_aside)
    assert "sdxl/1.jpg" not in splits.ids["train"]
    check_splits(splits, table, groups)


def test_caches_notice_other_datasets(settings, tiny_config, generated, tmp_path, monkeypatch):
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))
    alone, mixed = to_settings(tiny_config()).data, settings(generated.root).data
    keys = [dataset_key(data) for data in (alone, mixed, settings(generated.root, "name: other").data)]
    assert len(set(keys)) == 3
    assert dataset_key(settings(generated.root, "share: 0.2, splits: train").data) == keys[1]
    with lock_copy(mixed) as manifest:
        summary = write_copy(plan_copy(mixed, manifest, *read_dataset(mixed)), processes=1)
    assert summary.n_held == 240 + N_NEW
    assert find_copy(mixed, *read_dataset(mixed)).has.all()
    assert find_copy(alone, *read_dataset(alone)) is None


def test_frozen_features_of_all_rows(settings, generated, tmp_path, monkeypatch):
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))
    config = settings(generated.root)
    table, source = read_dataset(config.data)
    network, rows = build_model(config.model, 32), np.array([0, 5, len(table) - 1])
    first = compute_features(network, config, UnreadableLedger(table, 0), source, rows)
    os.utime(generated.root / f"{N_NEW - 1}.jpg", (1, 1))
    monkeypatch.setattr(
        "roadwork.data.features._run_backbone", lambda *a: iter([(int(r), np.zeros(16)) for r in a[-1]])
    )
    second = compute_features(network, config, UnreadableLedger(table, 0), source, rows)
    np.testing.assert_array_equal(first.values[:2], second.values[:2])
    assert (second.values[2] == 0).all()


def test_gps_experiment_refuses_mixed_datasets(settings, generated):
    with pytest.raises(ConfigError, match=r"\bsdxl\b"):
        prepare_experiment(settings(generated.root), None, 5)
