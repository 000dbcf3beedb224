import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT))


def once(seconds, *, scale=1.0, error=None, beyond_gb=0.1):
    fields = {"seconds": seconds, "cpu_seconds": seconds, "beyond_gb": beyond_gb}
    return {name: None if error else value for name, value in fields.items()} | {"scale": scale, "error": error}


def test_ratios_are_of_medians_and_their_spread_is_the_widest():
    from benchmarks.geo import compare

    ours, other, far = ("t", "roadwork", 10), ("t", "other", 10), ("t", "other", 20)
    lines = compare(
        {
            ours: [once(2.0), once(1.0, beyond_gb=0.5), once(4.0)],
            other: [once(30.0), once(10.0), once(20.0)],
            far: [once(1.0)],
        }
    )
    assert [line["ratio"] for line in lines] == [None, 10.0, None]  # ours is not compared, nor other numbers of rows
    assert (lines[1]["ratio_low"], lines[1]["ratio_high"]) == (10 / 4, 30 / 1)
    assert (lines[0]["seconds"], lines[0]["seconds_low"], lines[0]["seconds_high"]) == (2, 1, 4)
    assert lines[0]["beyond_gb"] == 0.5


def test_errors_and_extrapolations_are_shown():
    from benchmarks.geo import as_table, compare

    lines = compare(
        {
            ("t", "roadwork", 10): [once(2.0)],
            ("t", "raises", 10): [once(None, error="more than 2^24")],
            ("t", "sampled", 10): [once(50.0, scale=5.0)],
        }
    )
    console = Console(width=200, file=io.StringIO())
    console.print(as_table(lines))
    text = console.file.getvalue()
    assert "raises: more than 2^24" in text
    assert "50 (50 to 50), extrapolated from a sample" in text
    assert "25 (25 to 25)" in text


def test_full_plan_has_the_claimed_sizes():
    from benchmarks.geo import plan

    cases = plan([7], full=True, only="")
    assert ("rows weighted, first two million draws", "roadwork", 10**8) in cases
    assert ("groups within 1 km, one dense city", "roadwork", 10**6) in cases
    assert ("an epoch of weighted draws", "torch WeightedRandomSampler", 2**24 + 1) in cases
    assert {n for _, _, n in plan([7], full=False, only="distance")} == {7}
    # Of each task ours comes first, for the others to be compared with.
    assert next(tool for task, tool, _ in cases if task.startswith("distance")) == "roadwork"


def test_memory_and_seconds_are_those_of_the_work():
    from benchmarks.geo_cases import measure

    held = []

    def run():
        held.append(np.ones(60_000_000))  # 480 MB
        return 3

    measured = measure(run)
    assert measured["beyond_gb"] > 0.4  # at least: the peak is that of the whole process, other tests included
    assert measured["scale"] == 3
    assert measured["seconds"] >= 3 * 0.001

    def fail():
        raise RuntimeError("number of categories cannot exceed 2^24\nand more")

    assert measure(fail)["error"] == "number of categories cannot exceed 2^24"
    assert measure(fail)["seconds"] is None


def test_every_case_runs_on_a_few_rows():
    from benchmarks.geo_cases import TASKS

    for task, tools in TASKS.items():
        assert next(iter(tools)) == "roadwork", task
        for tool, case in tools.items():
            scale = case(3_000)()
            assert scale == (1.5 if tool.startswith("geopy") else 1), tool


def test_dense_cities_have_too_many_pairs_to_list(monkeypatch):
    from benchmarks import geo_cases

    monkeypatch.setattr(geo_cases, "MAX_PAIRS", 1000)
    with pytest.raises(MemoryError, match=r"pairs within 1 km"):
        geo_cases.groups_balltree(geo_cases.dense_city(3_000))()


def test_the_command_measures_in_processes_and_writes_json(tmp_path, capsys):
    from benchmarks.geo import main

    main(["--rows", "2000", "--repeat", "1", "--only", "distance", "--json", str(tmp_path / "geo.json")])
    content = json.loads((tmp_path / "geo.json").read_text())
    tools = [line["tool"] for line in content["lines"]]
    assert tools == ["roadwork", "scikit-learn BallTree", "geopy, point by point"]
    ours, ball_tree, _ = content["lines"]
    assert ours["error"] is None
    assert ball_tree["ratio"] == pytest.approx(ball_tree["seconds"] / ours["seconds"])
    assert "roadwork" in capsys.readouterr().out
    assert str(sys.version_info.major) in content["machine"]


def test_empty_selection_is_refused(capsys):
    from benchmarks.geo import main

    with pytest.raises(SystemExit):
        main(["--only", "nothing of the kind"])
    assert "the tasks are: distance" in capsys.readouterr().err
