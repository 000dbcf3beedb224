"""Measures precision and recall of the label audit on deliberately flipped labels.

python scripts/plant_wrong_labels.py plant data/demo data/planted --share 0.02 --by row
roadwork experiment cv -c configs/experiment/demo.yaml data.root=data/planted experiment=planted training.epochs=10
python scripts/plant_wrong_labels.py score data/planted outputs/planted/cv/latest
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

app = typer.Typer(add_completion=False, help=__doc__)


class Unit(StrEnum):
    """The unit whose labels are flipped together."""

    row = "row"
    sequence = "sequence_id"


@app.command()
def plant(
    root: Annotated[Path, typer.Argument(help="Dataset folder whose labels.csv has class names.")],
    out: Annotated[Path, typer.Argument(help="Output folder, with links to the images.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Fraction of the rows or sequences.")] = 0.02,
    by: Annotated[Unit, typer.Option(case_sensitive=False)] = Unit.row,
    seed: int = 0,
) -> None:
    """Copy a dataset and flip a fraction of its labels; planted.csv lists them."""
    out.mkdir(parents=True)
    for entry in root.iterdir():
        if entry.name not in ("labels.csv", "splits.json"):
            (out / entry.name).symlink_to(entry.resolve())
    frame = pd.read_csv(root / "labels.csv", dtype=str, keep_default_na=False)
    units = frame["filename"] if by is Unit.row else frame[by.value]
    names = np.unique(units)
    chosen = np.random.default_rng(seed).choice(names, round(share * len(names)), replace=False)
    is_planted = units.isin(chosen)
    first, second = np.unique(frame["label"])
    frame.loc[is_planted, "label"] = frame.loc[is_planted, "label"].map({first: second, second: first})
    frame.to_csv(out / "labels.csv", index=False)
    frame.loc[is_planted, ["filename", "label"]].to_csv(out / "planted.csv", index=False)
    typer.echo(f"{out}: {is_planted.sum():,} of {len(frame):,} labels are wrong.")


@app.command()
def score(
    root: Annotated[Path, typer.Argument(help="Output folder of `plant`.")],
    cross_validation: Annotated[Path, typer.Argument(help="Output folder of `roadwork experiment cv` on it.")],
) -> None:
    """Print the precision and recall of the audit on the cross-validated rows."""
    seen = set(pd.read_parquet(cross_validation / "oof_predictions.parquet")["filename"])
    planted = set(pd.read_csv(root / "planted.csv")["filename"]) & seen
    listed = pd.read_csv(cross_validation / "label_audit.csv", dtype=str, keep_default_na=False)["filename"].tolist()
    found = planted & set(listed)
    first = planted & set(listed[: len(planted)])
    typer.echo(f"{len(seen):,} rows, {len(planted)} planted, {len(listed)} listed, {len(found)} of them planted.")
    typer.echo(f"Precision {len(found) / max(1, len(listed)):.3f}, recall {len(found) / len(planted):.3f}.")
    typer.echo(f"Precision of the first {len(planted)} listed: {len(first) / len(planted):.3f} ({len(first)} planted).")


if __name__ == "__main__":
    app()
