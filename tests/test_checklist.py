"""docs/checklist.md names files that exist and listings that are true."""

from __future__ import annotations

import re

import pytest
from fixtures.config import CHECKOUT

CHECKLIST = (CHECKOUT / "docs" / "checklist.md").read_text(encoding="utf-8")
LISTINGS = re.findall(r"^\$ ls (.*)\n((?:(?!\$ |```).*\n)+)", CHECKLIST, flags=re.MULTILINE)


@pytest.mark.parametrize(("asked", "shown"), LISTINGS)
def test_listing_is_what_ls_prints(asked: str, shown: str):
    assert sorted(asked.split()) == shown.split()
    assert all((CHECKOUT / name).is_file() for name in asked.split())


def test_listings_cover_what_users_tick():
    files = {name for asked, _ in LISTINGS for name in asked.split()}
    names = {path.rsplit("/", 1)[-1] for path in files}
    assert {"gps_weighted_sampler.py", "latest_aug_2025.py", "mcc_callback.py", "ema_callback.py"} <= names
    assert {"adalora_config.py", "vera_config.py", "ia3_config.py"} <= names


def test_paths_and_test_folders_exist():
    for path in set(re.findall(r"\b(?:src|tests|scripts|configs)/[\w./]+\w", CHECKLIST)):
        assert (CHECKOUT / path).exists(), path
