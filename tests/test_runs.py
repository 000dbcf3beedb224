"""Run folders are unique, their files are written atomically, and the manifest is correct."""

import hashlib
import json
import math

import pytest

from roadwork import __version__
from roadwork.core.errors import DataError
from roadwork.core.files import atomic_path, write_json
from roadwork.runs import run as runs
from roadwork.runs.run import Run


def test_a_file_is_moved_into_place_whole(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("all of it")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename across disks would not be atomic
    assert target.read_text() == "all of it"
    assert [p.name for p in target.parent.iterdir()] == ["file.txt"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_json_is_readable_and_nan_is_refused(tmp_path):
    write_json(tmp_path / "a.json", {"city": "Köln", "n": [1]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"city": "Köln", "n": [1]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"mcc": math.nan})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["n"] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_runs_of_one_second_get_distinct_folders(tmp_path):
    folders = []
    for _ in range(3):
        folders.append(Run.create(tmp_path, "exp").folder)
        assert (tmp_path / "exp" / "latest").resolve() == folders[-1].resolve()
    assert len(set(folders)) == 3
    assert sorted(folders) == folders
    assert all(folder.is_dir() for folder in folders)
    assert {p.name for p in (tmp_path / "exp").iterdir()} == {"latest", *(folder.name for folder in folders)}


def test_latest_still_holds_when_outputs_is_moved(tmp_path):
    folder = Run.create(tmp_path / "outputs", "exp").folder
    (folder / "config.yaml").touch()
    (tmp_path / "outputs").rename(tmp_path / "archive")
    assert Run.open(tmp_path / "archive" / "exp" / "latest").folder.name == folder.name


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"no run folder .*roadwork train"):
        Run.open(tmp_path / "gone")
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataError, match=r"config\.yaml.*photo\.jpg.*outputs/<experiment>/latest"):
        Run.open(tmp_path)


def test_manifest_lists_files_and_keeps_earlier_facts(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (tmp_path / "config.yaml").write_text("a: 1\n")
    Run(tmp_path).write_manifest(seed=0)
    created = Run(tmp_path).read_manifest()["created"]
    (tmp_path / "config.yaml").write_text("a: 2\n")
    Run(tmp_path).write_manifest(fingerprint="sha256:abc")
    manifest = Run(tmp_path).read_manifest()
    assert (manifest["seed"], manifest["fingerprint"], manifest["created"]) == (0, "sha256:abc", created)
    assert manifest["roadwork"] == __version__
    assert "torch" in manifest["versions"]
    assert set(manifest["sha256"]) == {"checkpoints/best.ckpt", "config.yaml"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_without_git_there_is_no_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    assert runs._git_revision() is None
    assert Run(tmp_path).read_manifest() == {}
