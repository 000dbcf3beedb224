"""An exported folder in the consumer's own Python: transformers 4.45.2, where roadwork itself could not be imported."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np

from roadwork.errors import ConfigError, DataError
from roadwork.export.consumer import FAILED, OK, WARNING, ContractCheck

SCRIPT = Path(__file__).parent / "assets" / "streetvision_consumer.py"
CONSUMER_TRANSFORMERS = "4.45.2"
_TIMEOUT_S = 1800
_KINDS = ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs")


@dataclass(frozen=True)
class ConsumerAnswer:
    """What the consumer's environment made of a folder.

    Attributes:
        transformers: its version.
        error: why the folder could not be loaded or a photo not be scored; None where all went well.
        model, processor: the classes that it chose; empty where it did not come so far.
        scores: (N,) of the label Roadwork; fewer where there is an error.
        seconds: (N,) that each took, from the file on.
        misfits: weights that are missing or do not fit, which it makes up without an error.
        warnings: what the library warned of.
    """

    transformers: str
    error: str | None
    model: str
    processor: str
    scores: np.ndarray
    seconds: np.ndarray
    misfits: list[str]
    warnings: list[str]


def ask_consumer(python: Path, requests: Sequence[tuple[Path, Sequence[Path]]]) -> list[ConsumerAnswer]:
    """Loads folders as a miner does and scores their photos, in one process of another interpreter.

    Args:
        python: an interpreter with transformers 4.45.2, torch, torchvision and Pillow.
        requests: folders, and the photos to score with each.

    Raises:
        ConfigError: the interpreter cannot be run.
        DataError: it ended with an error of its own.
    """
    asked = [{"folder": str(f.resolve()), "photos": [str(p.resolve()) for p in photos]} for f, photos in requests]
    try:
        done = subprocess.run(  # noqa: S603 -- the user names the interpreter
            [str(python), "-I", str(SCRIPT)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_TIMEOUT_S,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--consumer-python is {python}, which cannot be used ({error}). It must be a Python with transformers "
            f"{CONSUMER_TRANSFORMERS}; `make consumer` makes .venv-consumer/bin/python."
        ) from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{python} did not answer within {_TIMEOUT_S} s. Try it with fewer photos.") from None
    if answer is None:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"{python} ended with {done.returncode}: {last}. It must have transformers {CONSUMER_TRANSFORMERS}, torch, "
            "torchvision and Pillow; `make consumer` makes such an environment in .venv-consumer."
        )
    return [_read_answer(answer["transformers"], row) for row in answer["folders"]]


def _read_answer(version: str, row: dict[str, object]) -> ConsumerAnswer:
    weights = row.get("weights", {})
    misfits = [f"{kind} {name}" for kind in _KINDS for name in weights.get(kind, [])]  # type: ignore[attr-defined]
    return ConsumerAnswer(
        transformers=version,
        error=row["error"],  # type: ignore[arg-type]
        model=str(row.get("model", "")),
        processor=str(row.get("processor", "")),
        scores=np.array(row["scores"], dtype=np.float64),
        seconds=np.array(row["seconds"], dtype=np.float64),
        misfits=misfits,
        warnings=list(row["warnings"]),  # type: ignore[call-overload]
    )


def check_answer(answer: ConsumerAnswer) -> ContractCheck:
    """Whether the folder was loaded whole, by the library that miners have."""
    status, found = OK, f"{answer.model} with {answer.processor}, by transformers {answer.transformers}"
    if answer.warnings or answer.transformers != CONSUMER_TRANSFORMERS:
        status, found = WARNING, "; ".join([found, *answer.warnings])
    if answer.error or answer.misfits:
        status, found = (
            FAILED,
            shorten(answer.error or "", 300) or f"weights that do not fit: {', '.join(answer.misfits[:5])}",
        )
    return ContractCheck(
        "the consumer's environment",
        status,
        found,
        f"loaded by transformers {CONSUMER_TRANSFORMERS}, with every weight and without a warning",
        f"mend what is named, or use an interpreter with transformers {CONSUMER_TRANSFORMERS} (`make consumer`)",
    )
