from roadwork.core import devices as machine
from roadwork.core.devices import available_bytes


def test_container_memory_respects_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    free = available_bytes()
    assert free > 10**6
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() > 10**6
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes() == 4000
