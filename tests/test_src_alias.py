"""`src.x` is `roadwork.x`: the same modules and the same classes, whichever was imported first."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def run(code, cwd=CHECKOUT):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


COMPARE = """
import src, roadwork, sys, importlib
assert a is b, (a, b)
assert src is roadwork and src.data.table is roadwork.data.table
assert src.core.errors is sys.modules["roadwork.core.errors"]
assert roadwork.core.errors.__spec__.name == "roadwork.core.errors" and a.__module__.startswith("roadwork.")
try:
    raise roadwork.core.errors.DataError("x")
except src.core.errors.DataError:
    print("same")
try:
    importlib.import_module("src.nothing")
except ModuleNotFoundError as error:
    print(error.name)
"""


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("src", "roadwork", "data.samplers.gps_weighted_sampler.GPSWeightedSampler"),
        ("roadwork", "src", "data.table.SampleTable"),
    ],
)
def test_one_object_under_both_names(first, second, name):
    module, _, cls = name.rpartition(".")
    imports = [
        f"import {package}.core.errors, {package}.data.table\nfrom {package}.{module} import {cls} as {variable}"
        for package, variable in ((first, "a"), (second, "b"))
    ]
    assert run("\n".join([*imports, COMPARE])) == ["same", "src.nothing"]


def test_pickled_under_one_name_and_read_under_the_other():
    code = "import src.core.errors, pickle; import roadwork.core.errors as e; "
    assert run(code + "print(type(pickle.loads(pickle.dumps(src.core.errors.DataError('x')))) is e.DataError)") == [
        "True"
    ]


def test_from_a_script_elsewhere_with_the_checkout_on_the_path(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import src.core.errors; print(src.core.errors.__name__)"
    assert run(code, tmp_path) == ["roadwork.core.errors"]


def test_the_link_and_py_compile():
    assert (CHECKOUT / "src").is_symlink()
    assert (CHECKOUT / "src").readlink() == Path("roadwork")
    command = [sys.executable, "-m", "py_compile", "src/config.py", "src/data/samplers/gps_weighted_sampler.py"]
    assert subprocess.run(command, cwd=CHECKOUT, check=False).returncode == 0
