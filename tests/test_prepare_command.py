"""`roadwork prepare` makes a copy that training reads by itself, and says what it needs, does and cannot do."""

import re
import shutil
from types import SimpleNamespace

import pytest

from roadwork.cli import main
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.prepared import plan as prepared_plan

SIZE = "data.img_size=32"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture
def root(demo_root, tmp_path, monkeypatch):
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))
    shutil.copytree(demo_root, tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def shards(tmp_path):
    return lambda: sorted((tmp_path / "cache" / "prepared").glob("*/*.arrow"))


def prepare(root, *arguments):
    return run("prepare", f"data.root={root}", SIZE, "--processes", 1, *arguments)


def test_copy_is_made_once_and_read_by_training(root, tiny_config, capsys):
    assert prepare(root) == 0
    out = capsys.readouterr().out
    assert "240 images, short side 37 pixels, into" in out
    assert re.search(r"240 to write: about \d+\.\d kB .*\d\.\d kB per image.* GB free", out)
    assert re.search(r"240 images written in .* s, .* images/s\.", out)
    assert re.search("✅ .*240 of 240 images", out)
    assert "Next: roadwork train" in out
    assert prepare(root) == 0
    out = capsys.readouterr().out
    assert re.search(r"\b240 .*already.*\b0 .*changed", out)
    assert "to write" not in out
    datamodule = NATIXDataModule(tiny_config(f"data.root={root}", "data.cache=none"))
    datamodule.setup("fit")
    assert "240 of 240 images come from the resized copy" in capsys.readouterr().err
    assert datamodule.datasets["train"].store.copy.has.all()
    assert datamodule.datasets["val_test"].store.copy is None
    assert len(next(iter(datamodule.train_dataloader()))["image"]) == 16


def test_the_estimate_is_near_what_it_takes(root, capsys, shards):
    prepare(root)
    said = float(re.search(r"about (\d+\.\d) kB", capsys.readouterr().out)[1]) * 1e3
    taken = sum(path.stat().st_size for path in shards())
    assert taken * 0.9 < said < taken * 1.3


def test_a_disk_that_is_too_small(root, monkeypatch, capsys, shards):
    monkeypatch.setattr(prepared_plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    assert prepare(root) == 1
    captured = capsys.readouterr()
    assert "240 to write" in captured.out  # printed before the error
    assert re.search(r"The copy needs about \d+\.\d kB more, and the disk of .* has 100\.0 kB free", captured.err)
    assert not shards()


def test_verify_reports_damage_and_repairs_it(root, capsys, shards):
    prepare(root)
    (path,) = shards()
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    capsys.readouterr()
    assert prepare(root) == 0  # not looked for
    assert path.read_bytes() == damaged
    capsys.readouterr()
    assert prepare(root, "--verify") == 0
    out = capsys.readouterr().out
    assert f"❌ {path}: a checksum" in out
    assert "240 images written" in out
    assert [shard.read_bytes() for shard in shards()] == [whole]
    assert prepare(root, "--verify") == 0
    out = capsys.readouterr().out
    assert "❌" not in out
    assert "✅ All images" in out


def test_unreadable_images_are_listed(root, capsys):
    broken = sorted((root / "images").iterdir())[:2]
    for path in broken:
        path.write_bytes(b"no picture")
    assert prepare(root) == 1  # data.max_unreadable is 0
    captured = capsys.readouterr()
    assert re.search("✅ .*238 of 240 images", captured.out)
    assert all(f"{path.name}: it is not a JPEG" in captured.err for path in broken)
    assert prepare(root, "data.max_unreadable=0.01") == 0
    captured = capsys.readouterr()
    assert "2 of 240 images cannot be read (0.83%)" in captured.err
    assert "Next: roadwork train" in captured.out


def test_help_and_wrong_usage(capsys):
    assert run("prepare", "--help") == 0
    assert "Example: roadwork prepare data.root=photos" in capsys.readouterr().out
    assert run("prepare", "--processes", "0") == 2
