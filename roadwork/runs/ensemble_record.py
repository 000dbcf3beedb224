"""`ensemble.json`: the runs that an ensemble averages, with the SHA-256 of their checkpoints."""

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

RECORD_FILE = "ensemble.json"
FORMAT = 1


@dataclass(frozen=True)
class Member:
    """A run of an ensemble.

    Attributes:
        run: the run.
        checkpoint_sha256: hash of its best checkpoint when the ensemble was created.
    """

    run: Run
    checkpoint_sha256: str


def is_ensemble(folder: Path) -> bool:
    """Whether a run folder contains an ensemble."""
    return (folder / RECORD_FILE).is_file()


def write_record(folder: Path, members: Sequence[Member], figures: dict[str, Any]) -> None:
    """Writes `ensemble.json`. Run paths are relative to the ensemble's folder, so `outputs/` can be moved."""
    rows = [
        {
            "run": os.path.relpath(member.run.folder, folder.resolve()),
            "checkpoint_sha256": member.checkpoint_sha256,
        }
        for member in members
    ]
    write_json(folder / RECORD_FILE, {"format": FORMAT, "averaged": "logits", "members": rows, **figures})


def read_members(folder: Path) -> tuple[Member, ...]:
    """The runs of an ensemble, with the SHA-256 of their checkpoints.

    Raises:
        DataError: ensemble.json is damaged or does not match results.json, or a run is missing or has another
            checkpoint now.
    """
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        members = tuple(
            Member(Run((folder.resolve() / row["run"]).resolve()), str(row["checkpoint_sha256"]))
            for row in content["members"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be used ({type(error).__name__}: {error}). {_again()}") from None
    if content.get("format") != FORMAT or len({member.checkpoint_sha256 for member in members}) < max(2, len(members)):
        raise DataError(f"{path} does not name two or more different runs in format {FORMAT}. {_again()}")
    evaluated = Run(folder).read_evaluated_sha256() or []
    if evaluated != [member.checkpoint_sha256 for member in members]:
        raise DataError(
            f"{path} names {len(members)} runs, but results.json beside it has the hashes of {len(evaluated)} other "
            f"checkpoints: a run was removed, added or replaced. {_again()}"
        )
    for member in members:
        _check_checkpoint(member)
    return members


def _check_checkpoint(member: Member) -> None:
    path = member.run.best_checkpoint
    if not path.is_file():
        raise DataError(f"{path} is missing; the ensemble needs it. Restore it. {_again()}")
    found = sha256_of(path)
    if found != member.checkpoint_sha256:
        raise DataError(
            f"{path} has changed since the ensemble was created (SHA-256 {found[:12]}…, was "
            f"{member.checkpoint_sha256[:12]}…), because the run was trained further. Evaluate it. {_again()}"
        )


def _again() -> str:
    return "Create the ensemble again with `roadwork ensemble RUN RUN`."
