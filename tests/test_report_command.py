"""`roadwork report`: output, paths, and unchanged run files."""

import shutil
import sys

import pytest
from typer.testing import CliRunner

import roadwork.cli.evaluate  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.core.errors import ConfigError, DataError, MissingExtraError
from roadwork.runs.run import Run


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_report_of_one_run_is_in_its_folder(run):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    openings = Run(run).read_manifest()["val_test_openings"]
    result = invoke(run)
    assert result.exit_code == 0, result.output
    path = run / "report.html"
    assert str(path) in result.output.replace("\n", "")
    assert f"{path.stat().st_size / 1e6:.1f} MB" in result.output
    assert path.stat().st_size < 3_000_000
    assert {name: (run / name).read_bytes() for name in before} == before
    assert Run(run).read_manifest()["val_test_openings"] == openings


def test_report_of_several_runs_is_in_the_current_folder(run, tmp_path, monkeypatch):
    other = shutil.copytree(run, tmp_path / "other")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert invoke(run, other).exit_code == 0
    assert '<section id="compare">' in (here / "report.html").read_text()
    assert not (run / "report.html").exists()


def test_overrides_and_out_are_used(run, tmp_path):
    out = tmp_path / "for others" / "page.html"
    assert invoke(run, "privacy.blur=3", "privacy.coarsen_gps=1", "--out", out).exit_code == 0
    assert "blurred, by 3 %" in " ".join(out.read_text().split())
    assert isinstance(invoke(run, "privacy.blur=51").exception, ConfigError)
    assert isinstance(invoke(run, "privacy.blurr=5").exception, ConfigError)


def test_missing_or_unknown_run_is_rejected(tmp_path):
    assert invoke("privacy.blur=3").exit_code == 2
    assert invoke().exit_code == 2
    assert isinstance(invoke(tmp_path / "nowhere").exception, DataError)


def test_missing_jinja_names_the_install_command(run, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("roadwork.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    error = invoke(run).exception
    assert isinstance(error, MissingExtraError)
    assert 'pip install "roadwork-vision[report]"' in str(error)
