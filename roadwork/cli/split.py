"""`roadwork split`: writes splits.json."""

from __future__ import annotations

from roadwork.cli.app import app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides


@app.command()
def split(overrides: Overrides = None, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the four splits and write splits.json beside the data.

    Example: roadwork split data.root=photos data.splitting.seed=7
    """
    from roadwork.config import load_config, to_settings
    from roadwork.data.source import check_may_replace, read_dataset, splits_path
    from roadwork.data.splits import make_splits
    from roadwork.data.splits_check import check_splits

    settings = to_settings(load_config(config, overrides or []))
    path = splits_path(settings)
    check_may_replace(path)
    table, _ = read_dataset(settings.data)
    splits = make_splits(table, settings.data.splits, settings.data.splitting.seed, settings.data.splitting.strategy)
    report = check_splits(splits, table)
    splits.write(path)
    print(f"{path}: {report}")
    for warning in report.warnings:
        print(f"Note: {warning}")
