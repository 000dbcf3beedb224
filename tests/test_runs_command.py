"""`roadwork runs` lists each run's state and metrics, and `roadwork resume NAME` finds a run by its name."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

import roadwork.cli.train  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import write_json
from roadwork.report.run_files import read_run
from roadwork.runs.listing import (
    DAMAGED,
    FINISHED,
    RUNNING,
    STOPPED,
    UNSAVED,
    list_runs,
    name_run,
    read_run_config,
    resolve_run,
)
from roadwork.runs.lock import check_unlocked, is_locked, run_lock
from roadwork.runs.run import Run

CONFIG = {"model": {"name": "resnet"}, "data": {}, "training": {"epochs": 3, "adapter": "none", "patience": 10}}


def make(folder, *scores, finished=True, checkpoint=True, **config):
    """A run's folder as `roadwork train` leaves it, without networks."""
    (folder / "checkpoints").mkdir(parents=True)
    OmegaConf.save(OmegaConf.merge(CONFIG, config), folder / "config.yaml")
    lines = [json.dumps({"epoch": n, "val_select/mcc": score}) + "\n" for n, score in enumerate(scores)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    write_json(folder / "manifest.json", {"epochs_trained": len(scores) if finished else None})
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()
    return folder


@pytest.fixture
def outputs(tmp_path):
    """Runs of two experiments, one of them nested, beside what is no run."""
    outputs = tmp_path / "outputs"
    make(outputs / "demo" / "20260101T000000Z", 0.5, 0.9, 0.7)
    make(outputs / "demo" / "20260103T000000Z", 0.25, finished=False)
    make(outputs / "demo" / "20260103T000000Z-2", finished=False, checkpoint=False)
    make(outputs / "seeds" / "a" / "20260102T000000Z", 0.1, training={"adapter": "lora"})
    make(outputs / "demo" / "cv" / "20260104T000000Z" / "fold_0" / "20260104T000001Z", 0.8)
    (outputs / "demo" / "cv" / "20260104T000000Z" / "cv.yaml").touch()
    (outputs / "demo" / "gps" / "20260105T000000Z").mkdir(parents=True)
    (outputs / "demo" / "gps" / "20260105T000000Z" / "manifest.json").touch()
    (outputs / "demo" / "latest").symlink_to("20260101T000000Z")
    (outputs / "demo" / "model").mkdir()
    return outputs


def test_runs_come_the_newest_first_and_nothing_else_is_one(outputs):
    rows = list_runs(outputs)
    assert [(row.name, row.state) for row in rows] == [
        ("demo/20260103T000000Z-2", UNSAVED),
        ("demo/20260103T000000Z", STOPPED),
        ("seeds/a/20260102T000000Z", FINISHED),
        ("demo/20260101T000000Z", FINISHED),
    ]
    assert [(row.epochs, row.epochs_asked, row.best_val_select_mcc) for row in rows] == [
        (0, 3, None), (1, 3, 0.25), (1, 3, 0.1), (3, 3, 0.9),
    ]  # fmt: skip
    assert [row.adapter for row in rows] == ["none", "none", "lora", "none"]
    assert [row.name for row in list_runs(outputs, "seeds/a")] == ["seeds/a/20260102T000000Z"]
    assert list_runs(outputs, "seeds") == []


def test_a_real_run_is_listed_with_its_own_figures(tiny_run):
    folder = tiny_run.resolve()
    (row,) = (row for row in list_runs(folder.parents[1]) if row.name == f"{folder.parent.name}/{folder.name}")
    test = Run(folder).read_results()["val_test"]
    assert (row.state, row.epochs, row.epochs_asked, row.calibrated) == (FINISHED, 1, 1, True)
    assert row.val_test_mcc == test["mcc"]
    assert (row.val_test_mcc_low, row.val_test_mcc_high) == (test["mcc_low"], test["mcc_high"])
    manifest = Run(folder).read_manifest()
    assert row.val_test_openings == manifest["val_test_openings"] == 2
    assert row.best_val_select_mcc == pytest.approx(manifest["best_val_select_mcc"])
    assert row.git_revision == manifest["git_revision"]
    assert row.note is None


def test_figures_of_an_older_checkpoint_are_marked(tiny_run, tmp_path):
    folder = tmp_path / "outputs" / tiny_run.parent.name / tiny_run.resolve().name
    shutil.copytree(tiny_run, folder)
    manifest = Run(folder).read_manifest()
    manifest["sha256"]["checkpoints/best.ckpt"] = "another"
    write_json(folder / "manifest.json", manifest)
    (row,) = list_runs(tmp_path / "outputs")
    assert "older best checkpoint" in row.note


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.yaml", None, "config.yaml"),
        ("config.yaml", "training: {epochs: 3}", "model.name, training.adapter"),
        ("config.yaml", "{", "YAML"),
        ("manifest.json", "{", "JSON"),
        ("manifest.json", "[]", "JSON object"),
        ("results.json", "[]", "JSON object"),
    ],
)
def test_damaged_run_is_listed_as_damaged(outputs, file, content, expected):
    path = outputs / "demo" / "20260101T000000Z" / file
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    rows = list_runs(outputs)
    assert [row.state for row in rows] == [UNSAVED, STOPPED, FINISHED, DAMAGED]
    assert expected in rows[-1].note


def test_runs_and_report_skip_the_same_damaged_line(tmp_path, tiny_run):
    folder = tmp_path / "outputs" / "demo" / "20260101T000000Z"
    shutil.copytree(tiny_run, folder)
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("{\n" + whole)
    (row,) = list_runs(tmp_path / "outputs")
    report = read_run(folder)
    assert row.state == FINISHED
    assert row.epochs == len(report.epochs) == len(whole.splitlines())
    assert "metrics.jsonl" in row.note
    assert any("metrics.jsonl" in note and "line 1" in note for note in report.notes)


def test_partly_written_line_is_not_damage(outputs):
    path = outputs / "demo" / "20260103T000000Z" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 1, "val_sel')
    assert list_runs(outputs)[1].epochs == 1


def _hold(folder, pipe):
    with run_lock(folder):
        if os.fork() == 0:  # like a loader worker that outlives its killed parent
            pipe.recv()
            os._exit(0)
        pipe.send("held")
        pipe.recv()


def test_run_is_running_only_while_its_process_lives(outputs):
    folder = outputs / "demo" / "20260103T000000Z"
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(folder, theirs))
    process.start()
    assert mine.recv() == "held"
    try:
        assert list_runs(outputs)[1].state == RUNNING
        with pytest.raises(DataError, match="another process"):
            check_unlocked(folder)
        with pytest.raises(DataError, match="another process"), run_lock(folder):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        deadline = time.monotonic() + 30
        while is_locked(folder):  # the child process lives on, and releases the lock when it starts
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert list_runs(outputs)[1].state == STOPPED
    finally:
        mine.send("the child may go")


def test_run_name_resolution(outputs, monkeypatch):
    demo = outputs / "demo"
    for name, meant in {
        "demo": "20260103T000000Z-2",
        "demo/latest": "20260103T000000Z-2",
        "demo/20260103T000000Z": "20260103T000000Z",  # though it is another's beginning
        "demo/20260101": "20260101T000000Z",
        str(demo / "20260101T000000Z"): "20260101T000000Z",
        str(demo / "latest"): "20260101T000000Z",
    }.items():
        assert resolve_run(name, outputs) == (demo / meant).resolve()
    assert resolve_run("seeds", outputs).name == "20260102T000000Z"
    with pytest.raises(DataError, match=r"2 runs.*demo/20260103T000000Z-2, demo/20260103T000000Z\."):
        resolve_run("demo/20260103", outputs)
    with pytest.raises(DataError, match=r"'dmeo'.*demo\?"):
        resolve_run("dmeo", outputs)
    monkeypatch.chdir(outputs.parent)
    assert name_run(demo / "20260101T000000Z") == "demo/20260101T000000Z"
    elsewhere = make(outputs.parent / "elsewhere" / "x" / "20260101T000000Z")
    assert name_run(elsewhere) == str(elsewhere)


def test_a_finished_run_has_to_be_asked_for_more(outputs):
    finished, stopped = outputs / "demo" / "20260101T000000Z", outputs / "demo" / "20260103T000000Z"
    with pytest.raises(ConfigError, match=r"3 of 3 epochs.*training\.epochs=13"):
        read_run_config(finished, [])
    assert read_run_config(finished, ["training.epochs=4"]).training.epochs == 4
    assert read_run_config(finished, ["training.patience=0"]).training.patience == 0
    assert read_run_config(stopped, []).training.epochs == 3
    (stopped / "config.yaml").write_text("training: {epochs: 3, patience: 10}\n")
    with pytest.raises(DataError, match=r"config\.yaml"):
        read_run_config(stopped, [])


def test_command_lists_runs_as_text_and_json(outputs):
    (outputs / "demo" / "20260101T000000Z" / "manifest.json").write_text("{")
    result = CliRunner().invoke(app, ["runs", "--output-dir", str(outputs)], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines()[:12])) <= 100
    for part in (
        "demo/20260103T000000Z-2",
        "stopped",
        "1/3",
        "0.250",
        "damaged",
        "JSON",
        "adapter",
        " lora ",
    ):
        assert part in result.output
    printed = CliRunner().invoke(app, ["runs", "seeds/a", "--json", "--output-dir", str(outputs)])
    (row,) = json.loads(printed.stdout)
    assert (row["name"], row["adapter"], row["val_test_mcc"]) == ("seeds/a/20260102T000000Z", "lora", None)
    nothing = CliRunner().invoke(app, ["runs", "other", "--output-dir", str(outputs)])
    assert "other" in nothing.output
