import json

import pytest

from benchmarks import paired
from benchmarks.paired import Contender, compare, show, take_turns


def test_turns_alternate_and_warmups_are_not_timed(monkeypatch):
    order, clock = [], iter(range(1000))
    monkeypatch.setattr(paired.time, "perf_counter", lambda: next(clock))
    contenders = [Contender(name, lambda name=name: order.append(name) or 10) for name in "ab"]
    speeds = take_turns(contenders, repeats=2, warmups=1)
    assert "".join(order) == "baabba"
    assert speeds == {"a": [10.0, 10.0], "b": [10.0, 10.0]}


def test_ratios_are_taken_within_a_repetition():
    # Both are twice as fast in the second repetition: the ratio does not move, as that of medians across would.
    ours, theirs = compare("decode", "ours", {"ours": [30, 60, 33], "theirs": [10, 20, 10]}, {"theirs": "coarser"})
    assert (ours.images_per_s, ours.images_per_s_low, ours.images_per_s_high, ours.ours_ratio) == (33, 30, 60, None)
    assert (theirs.ours_ratio, theirs.ours_ratio_low, theirs.ours_ratio_high) == pytest.approx((3, 3, 3.3))
    assert theirs.note == "coarser"


def test_the_table_is_written_with_machine_and_date(tmp_path, capsys):
    lines = compare("decode", "ours", {"ours": [30.0], "theirs": [10.0]})
    show(lines, "Input", tmp_path / "out.json", images=4)
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["images"], written["lines"][1]["ours_ratio"]) == (4, 3.0)
    assert {"date", "machine", "torch"} <= written.keys()
    assert "theirs" in capsys.readouterr().out
