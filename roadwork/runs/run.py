"""A run's folder: `outputs/<experiment>/<UTC time>/`, written atomically, with a manifest of what is in it."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from roadwork import __version__
from roadwork.core.errors import DataError
from roadwork.core.files import sha256_of, write_json

_CHECKOUT = Path(__file__).resolve().parents[1]
_VERSIONS_RECORDED = ("torch", "lightning", "transformers", "peft", "kornia", "numpy", "scikit-learn", "pillow")
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


def create_run_folder(output_dir: Path, experiment: str) -> Path:
    """Makes `<output_dir>/<experiment>/<UTC time>/` and points the link `latest` beside it to it."""
    parent = output_dir / experiment
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in itertools.count(1):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:  # another run of this second
            continue
        break
    link = parent / f".latest.{os.getpid()}.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(parent / "latest")
    return folder


def find_run_folder(run: Path) -> Path:
    """The folder of a run that a user named, its link resolved.

    Raises:
        DataError: there is no such folder, or it is not a run's.
    """
    if not run.is_dir():
        raise DataError(f"There is no run folder {run}. `roadwork train` makes outputs/<experiment>/<time>/.")
    if not (run / "config.yaml").is_file():
        inside = sorted(p.name for p in run.iterdir())[:5]
        raise DataError(
            f"{run} is not a run's folder: it has no config.yaml (it holds {inside}). Name outputs/<experiment>/latest."
        )
    return run.resolve()


def _git_revision() -> str | None:
    if not (_CHECKOUT / ".git").exists():  # installed: whatever repository is around is not ours
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(  # noqa: S603 -- a fixed command
            command, cwd=_CHECKOUT, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the run's manifest holds; empty where there is none yet.

    Raises:
        DataError: it is damaged; the count of the test set's openings would be lost with it.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Restore it, or train again.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("val_test_openings", 0), int):
        raise DataError(f"{path} is not a run's manifest. Restore it, or train again.")
    return manifest


def read_results(folder: Path) -> dict[str, Any]:
    """What the run's `results.json` holds; empty where there is none yet.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "results.json"
    if not path.is_file():
        return {}
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read as JSON: {error}. Write it again with `roadwork evaluate RUN`."
        ) from error
    return results


def write_manifest(folder: Path, **facts: object) -> None:
    """Writes `manifest.json`: what was there before, the facts given, and the SHA-256 of each file."""
    manifest = read_manifest(folder)
    manifest.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
    manifest["roadwork"] = __version__
    manifest["python"] = platform.python_version()
    manifest["versions"] = {name: version(name) for name in _VERSIONS_RECORDED}
    manifest["git_revision"] = _git_revision()
    manifest |= facts
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json" and "tensorboard" not in p.parts
    )
    manifest["sha256"] = {p.relative_to(folder).as_posix(): sha256_of(p) for p in files}
    write_json(folder / "manifest.json", manifest)
