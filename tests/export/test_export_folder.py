import os

import pytest

from roadwork.core.errors import DataError
from roadwork.export.folder import check_target, file_sizes, new_folder


def test_folder_appears_only_when_complete(tmp_path):
    out = tmp_path / "made" / "out"
    with new_folder(out) as folder:
        (folder / "config.json").write_text("{}")
        assert not out.exists()
    assert (out / "config.json").read_text() == "{}"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask  # the usual permissions of a folder


def fill(folder):
    (folder / "model.onnx").write_text("half")
    raise KeyboardInterrupt


def test_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        fill(folder)
    assert list(tmp_path.iterdir()) == []


def test_older_export_is_replaced(model_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be replaced
    for name in ("first", "second"):
        with new_folder(out) as folder:
            (folder / "config.json").write_bytes((model_folder / "config.json").read_bytes())
            (folder / "README.md").write_text(name)
    assert (out / "README.md").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_rename_keeps_the_old_export(model_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with new_folder(out) as folder:
        (folder / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    rename = type(out).rename

    def fail_for_new(self, target):
        if self.name == "new":
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail_for_new)
    with pytest.raises(OSError, match="no space"), new_folder(out) as folder:
        (folder / "config.json").write_text("new")
    assert (out / "config.json").read_bytes() == (model_folder / "config.json").read_bytes()


def test_other_folders_are_not_replaced(model_folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not written by"):
        check_target(mine)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*--out"):
        check_target(tmp_path / "file")


def test_files_added_to_an_export_are_kept(model_folder, tmp_path):
    out = tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    (out / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    with pytest.raises(DataError, match=r"\.git"):
        check_target(out)
    (out / ".git").rmdir()
    check_target(out)


def test_sizes_count_the_replay_as_one(tmp_path):
    (tmp_path / "replay").mkdir()
    (tmp_path / "replay" / "00.jpg").write_bytes(b"12")
    (tmp_path / "replay" / "01.jpg").write_bytes(b"345")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert file_sizes(tmp_path) == {"config.json": 2, "replay/": 5}
