"""The run folder `outputs/<experiment>/<UTC time>/`: its files, its manifest, its results."""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from roadwork import __version__
from roadwork.core.errors import DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
# The key of `results.json` with the metrics on val_test at the calibrated threshold.
CALIBRATED_RESULT = f"{TEST_SPLIT}_calibrated"

_CHECKOUT = Path(__file__).resolve().parents[2]
_VERSIONS_RECORDED = ("torch", "lightning", "transformers", "peft", "kornia", "numpy", "scikit-learn", "pillow")
_SECTIONS = {"data", "model", "training"}


@dataclass(frozen=True)
class Run:
    """A run folder.

    Every file of a run has its path here, and one reader that treats a damaged file the same way everywhere:
    a damaged JSON or YAML file is a `DataError`; a damaged line of `metrics.jsonl` is counted and skipped.

    Attributes:
        folder: `outputs/<experiment>/<UTC time>/`.
    """

    folder: Path

    @classmethod
    def create(cls, output_dir: Path, experiment: str) -> Self:
        """Creates `<output_dir>/<experiment>/<UTC time>/` and points the link `latest` beside it to it."""
        parent = output_dir / experiment
        parent.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for number in itertools.count(1):
            folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:  # another run started in the same second
                continue
            break
        link = parent / f".latest.{os.getpid()}.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(parent / "latest")
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The run in a folder that a user named; links such as `latest` are resolved.

        Raises:
            DataError: there is no such folder, or it is not a run folder.
        """
        if not folder.is_dir():
            raise DataError(f"There is no run folder {folder}. `roadwork train` creates outputs/<experiment>/<time>/.")
        if not cls(folder).config_file.is_file():
            inside = sorted(p.name for p in folder.iterdir())[:5]
            raise DataError(
                f"{folder} is not a run folder: it has no config.yaml (it contains {inside}). "
                "Name outputs/<experiment>/latest."
            )
        return cls(folder.resolve())

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def splits_file(self) -> Path:
        """The splits that the run was trained on."""
        return self.folder / "splits.json"

    @property
    def checkpoint_folder(self) -> Path:
        """`best.ckpt`, `last.ckpt`, `previous.ckpt`."""
        return self.folder / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        """The weights with the best MCC on `val_select`."""
        return self.checkpoint_folder / BEST

    @property
    def metrics_file(self) -> Path:
        """One JSON line per epoch."""
        return self.folder / "metrics.jsonl"

    @property
    def predictions_file(self) -> Path:
        """Logits and metadata, one row per image."""
        return self.folder / "predictions.parquet"

    @property
    def results_file(self) -> Path:
        """Metrics with intervals, by split."""
        return self.folder / "results.json"

    @property
    def calibration_file(self) -> Path:
        """Temperature, threshold, abstention band."""
        return self.folder / "calibration.json"

    @property
    def elsewhere_folder(self) -> Path:
        """Results of `roadwork evaluate RUN --on DATASET`, one folder per dataset."""
        return self.folder / "on"

    @property
    def reference_folder(self) -> Path:
        """Features of training photos, kept by `roadwork evaluate RUN --on DATASET`."""
        return self.folder / "reference"

    @property
    def across_folder(self) -> Path:
        """The folds of `roadwork calibrate RUN --across COLUMN`, one folder per column; each fold is a run."""
        return self.folder / "across"

    @property
    def manifest_file(self) -> Path:
        """Versions, seeds, fingerprints, and the SHA-256 of each file."""
        return self.folder / "manifest.json"

    def read_config(self, overrides: Sequence[str] = ()) -> DictConfig:
        """The complete configuration of the run, with `key=value` overrides on top.

        Raises:
            ConfigError: an override cannot be used.
            DataError: the file is damaged or incomplete; missing sections would silently become defaults.
        """
        from roadwork.config import load_config, load_yaml  # noqa: PLC0415 -- the GPU benchmark has no omegaconf

        config = load_yaml(self.config_file)
        if not set(config) >= _SECTIONS:
            raise DataError(
                f"{self.config_file} is not the complete configuration of a run. Restore it, or train again."
            )
        return load_config(self.config_file, overrides) if overrides else config

    def read_settings(self, overrides: Sequence[str] = ()) -> Settings:
        """The typed settings of the run, with `key=value` overrides on top."""
        from roadwork.config import load_config, load_yaml, to_settings  # noqa: PLC0415 -- as above

        return to_settings(load_config(self.config_file, overrides) if overrides else load_yaml(self.config_file))

    def read_manifest(self) -> dict[str, Any]:
        """`manifest.json`; empty if there is none yet.

        Raises:
            DataError: it is damaged; the number of val_test openings would be lost with it.
        """
        manifest = self._read_json(self.manifest_file, "Restore it, or train again.")
        if not isinstance(manifest.get("val_test_openings", 0), int):
            raise DataError(f"{self.manifest_file}: val_test_openings is not a number. Restore it, or train again.")
        return manifest

    def read_results(self) -> dict[str, Any]:
        """`results.json`; empty before `roadwork evaluate`.

        Raises:
            DataError: it is damaged.
        """
        return self._read_json(self.results_file, "Write it again with `roadwork evaluate RUN`.")

    def read_elsewhere(self) -> list[dict[str, Any]]:
        """`results.json` of each other dataset, by name; empty before `roadwork evaluate RUN --on DATASET`.

        Raises:
            DataError: one is damaged.
        """
        files = sorted(self.elsewhere_folder.glob("*/results.json"))
        return [self._read_json(path, "Write it again with `roadwork evaluate RUN --on DATASET`.") for path in files]

    def read_evaluated_sha256(self) -> Any:
        """The SHA-256 of the evaluated checkpoint, or of each member of an ensemble; None before an evaluation."""
        return self.read_results().get(TEST_SPLIT, {}).get("checkpoint_sha256")

    def read_calibration(self) -> dict[str, Any] | None:
        """`calibration.json`; None before `roadwork calibrate`.

        Raises:
            DataError: it is damaged.
        """
        if not self.calibration_file.is_file():
            return None
        return self._read_json(self.calibration_file, "Write it again with `roadwork calibrate RUN`.")

    def read_epochs(self) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
        """The epochs of `metrics.jsonl`.

        Returns:
            One entry per epoch, in order; the last one if an epoch was repeated after an interruption. Then the
            numbers of damaged lines, which are skipped. A truncated last line is not damage: its epoch is trained
            again on resume.
        """
        if not self.metrics_file.is_file():
            return [], ()
        epochs: dict[int, dict[str, Any]] = {}
        damaged = []
        lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                epochs[int(entry["epoch"])] = entry
            except (ValueError, TypeError, KeyError):
                if number < len(lines):
                    damaged.append(number)
        return [epochs[epoch] for epoch in sorted(epochs)], tuple(damaged)

    def write_manifest(self, **facts: object) -> None:
        """Updates `manifest.json`: the existing entries, the given facts, and the SHA-256 of each file."""
        manifest = self.read_manifest()
        manifest.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
        manifest["roadwork"] = __version__
        manifest["python"] = platform.python_version()
        manifest["versions"] = {name: version(name) for name in _VERSIONS_RECORDED}
        manifest["git_revision"] = _git_revision()
        manifest |= facts
        files = sorted(
            path
            for path in self.folder.rglob("*")
            if path.is_file()
            and path != self.manifest_file
            and "tensorboard" not in path.parts
            and not path.is_relative_to(self.across_folder)  # its runs have manifests of their own
        )
        manifest["sha256"] = {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in files}
        write_json(self.manifest_file, manifest)

    def count_opening(self) -> int:
        """Records in the manifest that val_test's labels are opened once more; returns the new count."""
        openings = int(self.read_manifest().get("val_test_openings", 0)) + 1
        self.write_manifest(val_test_openings=openings)
        return openings

    def _read_json(self, path: Path, remedy: str) -> dict[str, Any]:
        """The JSON object in a file; empty if the file does not exist."""
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} cannot be read as JSON: {error}. {remedy}") from error
        if not isinstance(content, dict):
            raise DataError(f"{path} contains no JSON object. {remedy}")
        return content


def find_test_result(results: dict[str, Any], *, is_calibrated: bool) -> dict[str, Any] | None:
    """The metrics on `val_test` in the content of `results.json`; None before `roadwork evaluate`.

    They are those at the calibrated threshold if the run is calibrated and has them, else those at 0.5.
    """
    result: dict[str, Any] | None = results.get(CALIBRATED_RESULT) if is_calibrated else None
    return result or results.get(TEST_SPLIT)


def _git_revision() -> str | None:
    """The revision of roadwork's checkout; None for an installed package, even inside another repository."""
    if not (_CHECKOUT / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(  # noqa: S603 -- a fixed command
            command, cwd=_CHECKOUT, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
