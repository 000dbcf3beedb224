"""`ensemble.json`: which runs an ensemble averages, and the SHA-256 of the checkpoint of each."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork.core.errors import DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

RECORD_FILE = "ensemble.json"
CHECKPOINT = Path("checkpoints") / "best.ckpt"
FORMAT = 1


@dataclass(frozen=True)
class Member:
    """A run that takes part.

    Attributes:
        folder: of the run.
        checkpoint_sha256: of its best checkpoint when the ensemble was made.
    """

    folder: Path
    checkpoint_sha256: str

    def read_settings(self) -> Settings:
        """The run's own configuration."""
        return Run(self.folder).read_settings()


def is_ensemble(folder: Path) -> bool:
    """Whether a run's folder is an ensemble's."""
    return (folder / RECORD_FILE).is_file()


def write_record(folder: Path, members: Sequence[Member], figures: dict[str, Any]) -> None:
    """Writes `ensemble.json`; runs are named from the ensemble's folder on, so that `outputs/` may be moved whole."""
    rows = [
        {
            "run": os.path.relpath(member.folder, folder.resolve()),
            "checkpoint_sha256": member.checkpoint_sha256,
        }
        for member in members
    ]
    write_json(folder / RECORD_FILE, {"format": FORMAT, "averaged": "logits", "members": rows, **figures})


def read_members(folder: Path) -> tuple[Member, ...]:
    """The runs of an ensemble, each with the checkpoint that it was made with.

    Raises:
        DataError: ensemble.json is damaged or not what was judged, a run is gone, or its checkpoint is another by now.
    """
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        members = tuple(
            Member((folder.resolve() / row["run"]).resolve(), str(row["checkpoint_sha256"]))
            for row in content["members"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be used ({type(error).__name__}: {error}). {_again()}") from None
    if content.get("format") != FORMAT or len({member.checkpoint_sha256 for member in members}) < max(2, len(members)):
        raise DataError(f"{path} does not name two or more different runs in format {FORMAT}. {_again()}")
    judged = Run(folder).read_results().get(TEST_SPLIT, {}).get("checkpoint_sha256", [])
    if judged != [member.checkpoint_sha256 for member in members]:
        raise DataError(
            f"{path} names {len(members)} runs, and results.json beside it was made of {len(judged)} checkpoints that "
            f"are not theirs: a run was left out, added or exchanged. {_again()}"
        )
    for member in members:
        _check_checkpoint(member)
    return members


def _check_checkpoint(member: Member) -> None:
    path = member.folder / CHECKPOINT
    if not path.is_file():
        raise DataError(f"{path} is gone, and the ensemble needs it. Restore it. {_again()}")
    found = sha256_of(path)
    if found != member.checkpoint_sha256:
        raise DataError(
            f"{path} is not what the ensemble was made of (SHA-256 {found[:12]}…, then "
            f"{member.checkpoint_sha256[:12]}…): the run has been trained on since. Evaluate it. {_again()}"
        )


def _again() -> str:
    return "Make the ensemble again with `roadwork ensemble RUN RUN`."
