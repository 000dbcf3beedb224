import json
import shutil

import pytest
from fixtures.untrained_runs import make_untrained_run

from roadwork.cli import main


def run_command(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_command_reports_folding_checks_and_files(tiny_run, tmp_path, capfd):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    path = run / "calibration.json"
    changes = {"temperature": 1.25, "threshold": 0.4, "prior": 0.01, "abstain": {"low": 0.35, "high": 0.45}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    out = tmp_path / "out"
    assert run_command("export", run, "--out", out) == 0
    output = capfd.readouterr().out
    assert "temperature 1.25, threshold 0.4, prior 0.01; abstains from 0.3500 to 0.4500" in output
    assert "the folder, read back:" in output
    assert "model.safetensors" in output
    assert f"roadwork verify-export {out} --consumer streetvision" in output
    assert f"roadwork predict {out} PHOTOS --out sites.geojson" in output
    assert "Note" not in output


def test_missing_calibration_is_reported(tmp_path, capfd):
    run = make_untrained_run(tmp_path / "run")
    assert run_command("export", run, "--out", tmp_path / "out") == 0
    assert "not calibrated" in capfd.readouterr().out


def test_unsupported_streetvision_network_warns(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("roadwork.export.consumer.STREETVISION_MODEL_TYPES", ("vit",))
    run = make_untrained_run(tmp_path / "run")
    assert run_command("export", run, "--out", tmp_path / "out") == 0
    assert "4.45.2 cannot load a resnet (it can: vit)" in capfd.readouterr().out


def test_exit_codes(tmp_path, capfd):
    run = make_untrained_run(tmp_path / "run")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert run_command("export", run) == 2  # no --out
    assert run_command("export", run, "--format", "tflite", "--out", tmp_path / "out") == 2
    assert run_command("export", run, "--out", mine) == 1
    assert run_command("export", tmp_path / "nowhere", "--out", tmp_path / "out") == 1
    output = capfd.readouterr().err
    assert "Traceback" not in output
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
