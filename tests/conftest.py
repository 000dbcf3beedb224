"""Tiny data that the tests generate for themselves."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests themselves run in parallel
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network

import pytest
import torch
from fixtures.browser import CHROMIUM, FLAGS, need_chromium
from fixtures.config import CHECKOUT, TINY_MODEL
from omegaconf import DictConfig

from roadwork.config import load_config
from roadwork.demo import generate_demo_data


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Image hashes and features are computed once for all tests, and not left in the user's own cache."""
    os.environ["ROADWORK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo dataset of 240 small scenes in the local format."""
    root = tmp_path_factory.mktemp("demo") / "local"
    generate_demo_data(root, images=240, size=(160, 120), seed=0, processes=1)
    return root


@pytest.fixture(scope="session")
def demo_parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes as parquet, in the Hugging Face mode's schema."""
    root = tmp_path_factory.mktemp("demo") / "parquet"
    generate_demo_data(root, images=240, size=(160, 120), seed=0, fmt="parquet", processes=1)
    return root


@pytest.fixture
def tiny_config(demo_root: Path, tmp_path: Path):
    """Makes a configuration of a tiny network on the demo scenes, with further overrides."""

    def make(*overrides: str) -> DictConfig:
        return load_config(
            CHECKOUT / "configs" / "config.yaml",
            [
                *TINY_MODEL,
                f"data.root={demo_root}",
                f"output_dir={tmp_path / 'outputs'}",
                "training.epochs=1",
                *overrides,
            ],
        )

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> Path:
    """A run's folder, evaluated and calibrated. Shared: a test that changes it works on a copy."""
    from fixtures.detectors import make_run

    return make_run(tmp_path_factory.mktemp("run"), demo_root)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported tiny ResNet. Shared: a test that changes it works on a copy."""
    from fixtures.detectors import make_model_folder

    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory):
    """Fits of a tiny network on photos that a module's tests share."""
    from fixtures.tiny_fits import TinyFits

    return TinyFits(tmp_path_factory.mktemp("fits"))


@pytest.fixture(scope="module")
def browser():
    """A headless chromium, driven by playwright. Not for the whole session: while it is open no other loop may run."""
    from playwright.sync_api import sync_playwright

    need_chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()
