"""The distribution as users get it: built, checked, installed outside the checkout, and used as the README says."""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from fixtures.config import CHECKOUT, TINY_MODEL

from roadwork import __version__

FASTER = {  # by command: the quick start on few small scenes, with a tiny network
    "demo-data": ["--images", "240", "--size", "160x120"],
    "train": [*TINY_MODEL, "training.epochs=1"],
}
DRIVER = """
import json, sys
from roadwork.cli import main

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        try:
            main(arguments)
        except SystemExit as ended:
            if ended.code:
                sys.exit(f"{arguments}: exit code {ended.code}")
    exec(sys.argv[2])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh_python(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that has the wheel, and the dependencies of this environment without roadwork."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(built[1])], check=True)
    # A path in a .pth file: the .pth files in that folder, and so the editable roadwork, are not read.
    site_packages = next((folder / "lib").glob("python*/site-packages"))
    (site_packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


def run_outside(command: list[str], folder: Path) -> str:
    """Runs `command` in `folder`, where nothing leads to the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def quick_start(language: str) -> str:
    """The first block of code in `language` in the README's section "Quick start"."""
    section = (CHECKOUT / "README.md").read_text().split("\n## Quick start\n")[1].split("\n## ")[0]
    return section.split(f"```{language}\n")[1].split("```")[0]


def test_metadata_passes_twine_check(built):
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)], check=True)


def test_wheel_holds_the_package_its_types_and_configs(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
        shipped = {name: wheel.read(name) for name in names if name.startswith("roadwork/configs/")}
    assert {name.split("/")[0] for name in names} == {"roadwork", f"roadwork_vision-{__version__}.dist-info"}
    assert "roadwork/py.typed" in names
    assert len(names) == len(set(names))
    configs = CHECKOUT / "configs"
    own = {f"roadwork/configs/{file.relative_to(configs).as_posix()}": file for file in configs.rglob("*.yaml")}
    assert shipped == {name: file.read_bytes() for name, file in own.items()}


def test_sdist_holds_no_data_and_no_link(built):
    with tarfile.open(built[0]) as sdist:
        members = sdist.getmembers()
    top = {Path(member.name).parts[1] for member in members}
    assert {"roadwork", "configs", "tests", "pyproject.toml", "README.md", "LICENSE"} <= top
    assert not top & {"src", "data", "outputs", ".venv"}
    assert not [member.name for member in members if member.name.endswith((".whl", ".ckpt", ".safetensors"))]


def test_installed_command_answers(fresh_python, tmp_path):
    command = str(fresh_python.with_name("roadwork"))
    assert run_outside([command, "--version"], tmp_path).strip() == f"roadwork {__version__}"
    assert "demo-data" in run_outside([command, "--help"], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_readme_quick_start_runs_from_the_wheel(fresh_python, tmp_path):
    lines = [shlex.split(line, comments=True) for line in quick_start("bash").splitlines()]
    commands = [[*line[1:], *FASTER.get(line[1], [])] for line in lines if line]
    assert {"demo-data", "train", "evaluate", "export", "predict"} <= {command[0] for command in commands}
    split = ["split", "data.root=data/demo"]
    where = "import roadwork; open('imported', 'w').write(roadwork.__file__)\n"
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    work = tmp_path / "work"
    work.mkdir()
    run_outside([str(fresh_python), str(driver), json.dumps([*commands, split]), where + quick_start("python")], work)
    assert Path((work / "imported").read_text()).is_relative_to(fresh_python.parents[1])
    out = next(command[command.index("--out") + 1] for command in commands if command[0] == "predict")
    assert len(pd.read_csv(work / out)) == 240


def test_version_is_the_same_everywhere():
    assert yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())["version"] == __version__
    released = re.findall(
        r"^## \[(\d[^]]*)\] - \d{4}-\d{2}-\d{2}$", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert released[0] == __version__


def test_tool_versions_of_pre_commit_are_those_of_constraints():
    pins = dict(line.split("==") for line in (CHECKOUT / "constraints.txt").read_text().split() if "==" in line)
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())
    revisions = {repo["repo"].split("/")[-1]: repo["rev"].removeprefix("v") for repo in config["repos"]}
    for name, tool in {"ruff-pre-commit": "ruff", "codespell": "codespell", "mdformat": "mdformat"}.items():
        assert revisions[name] == pins[tool], tool
    plugins = next(r for r in config["repos"] if r["repo"].endswith("/mdformat"))["hooks"][0]["additional_dependencies"]
    assert plugins == [f"{name}=={pins[name]}" for name in ("mdformat-gfm", "mdformat-mkdocs", "mdformat-slw")]


def test_own_extras_are_named_after_the_distribution():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    hints = [
        hint
        for file in (CHECKOUT / "roadwork").rglob("*.py")
        for hint in re.findall(r"pip install ['\"]?([\w-]+)\[(\w+)\]", file.read_text())
    ]
    assert hints
    for name, extra in hints:
        assert name == project["name"]
        assert extra in project["optional-dependencies"]
