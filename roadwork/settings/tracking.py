"""Where learning curves go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from roadwork.errors import ConfigError

_SECRET_KEY = re.compile(
    r"api_?key|access_?key|private_?key|token|secret|passw|credential|(^|_)auth($|_)", re.IGNORECASE
)
_SECRET_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")


@dataclass
class TrackingSettings:
    # Lightning's loggers beside TensorBoard, which is always there: the name of each (wandb, mlflow, comet, csv) with
    # its arguments, such as {wandb: {project: roadwork}, mlflow: {tracking_uri: "file:mlruns"}}. No keys or passwords:
    # these belong into the environment. docs/tracking.md
    loggers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in _leaves(self.loggers, "tracking.loggers"):
            name = key.rpartition(".")[2]
            if _SECRET_KEY.search(name) or (isinstance(value, str) and _SECRET_IN_URL.search(value)):
                raise ConfigError(
                    f"{key} looks like a secret, which a run would write into its config.yaml. Take it out, and set "
                    "the logger's environment variable: WANDB_API_KEY; MLFLOW_TRACKING_TOKEN, or "
                    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; COMET_API_KEY."
                )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{number}")
    else:
        yield key, value
