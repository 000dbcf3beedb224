"""Where a model errs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd

from roadwork.data.utils.privacy import coarsen
from roadwork.maps import palette
from roadwork.maps.features import MapLayer, counted, make_point

_MAX_ERRORS = 3000
_NAMES_IN_TOOLTIP = 6
# Errors closer than this, 11 m, share a marker: frames of one stop would hide each other.
_ERROR_DECIMALS = 4


def error_layers(predictions: pd.DataFrame, decimals: int | None) -> list[MapLayer]:
    """Roadwork that the model missed, and alarms where there is none, at threshold 0.5."""
    decided, label = predictions["probability"].to_numpy() >= 0.5, predictions["label"].to_numpy() == 1
    kinds = (
        ("Missed roadwork", palette.MISSED, label & ~decided),
        ("False alarms", palette.FALSE_ALARM, ~label & decided),
    )
    return [_error_layer(name, color, predictions[wrong], decimals) for name, color, wrong in kinds]


def _error_layer(name: str, color: str, errors: pd.DataFrame, decimals: int | None) -> MapLayer:
    # The most confident first: they are the ones drawn where there are too many.
    errors = errors.iloc[np.argsort(-np.abs(errors["probability"].to_numpy() - 0.5), kind="stable")]
    gps = coarsen(coarsen(errors[["latitude", "longitude"]].to_numpy(np.float64), decimals), _ERROR_DECIMALS)
    lines = [
        f"{filename}: {probability:.1%} roadwork ({split})"
        for filename, probability, split in errors[["filename", "probability", "split"]].itertuples(index=False)
    ]
    places: dict[tuple[float, float], list[str]] = {}
    for (latitude, longitude), line in zip(gps.tolist(), lines, strict=True):
        if not math.isnan(latitude + longitude):
            places.setdefault((latitude, longitude), []).append(line)
    features = [
        make_point(np.array(position), _errors_text(name, here), len(here))
        for position, here in itertools.islice(places.items(), _MAX_ERRORS)
    ]
    counts = [f"{len(errors):,}"]
    if without := len(errors) - sum(map(len, places.values())):
        counts.append(f"{without:,} without position")
    if len(places) > _MAX_ERRORS:
        counts.append(f"the surest at {_MAX_ERRORS:,} places drawn")
    style = {"color": "#000000", "weight": 1.5, "fillColor": color, "fillOpacity": 1, "fill": True}
    return MapLayer(f"{name} ({', '.join(counts)})", color, features, style)


def _errors_text(name: str, lines: list[str]) -> str:
    more = [f"and {len(lines) - _NAMES_IN_TOOLTIP:,} more"] if len(lines) > _NAMES_IN_TOOLTIP else []
    return "\n".join([f"{name}, {counted(len(lines), 'image')}", *lines[:_NAMES_IN_TOOLTIP], *more])
