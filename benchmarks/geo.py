"""Time and peak memory of geographic weighting and grouping, compared with common tools on the same data.

    python -m benchmarks.geo [--rows N ...] [--full] [--repeat 3] [--only TEXT] [--json FILE]

Each measurement runs in a new process. The ratio is a tool's median time over ours. The brackets give its fastest time
over our slowest, and its slowest over our fastest. Our epoch includes all distance computations; the other tools get
the weights as input. All draws are consumed one by one, as in a data loader.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.geo_cases import TASKS

OURS = "roadwork"
TORCH_LIMIT = 2**24
Case = tuple[str, str, int]  # task, tool, rows
TORCH_ABOVE_ITS_LIMIT: Case = ("an epoch of weighted draws", "torch WeightedRandomSampler", TORCH_LIMIT + 1)
FULL_ROWS = {
    "distance to the nearest of 5 centres": 10**7,
    "an epoch of weighted draws": 10**7,
    "weights and the first two million draws": 10**8,
    "groups within 1 km, spread out": 10**6,
    "groups within 1 km, one dense city": 10**6,
}


def plan(rows: Sequence[int], *, full: bool, only: str) -> list[Case]:
    """Returns the cases to measure. Ours comes first for each task and number of rows, as the baseline."""
    sizes = {task: [FULL_ROWS[task]] if full else list(rows) for task in TASKS}
    cases = [(task, tool, n) for task, tools in TASKS.items() for n in sizes[task] for tool in tools]
    return [case for case in [*cases, TORCH_ABOVE_ITS_LIMIT] if only in case[0]]


def measure_in_a_process(case: Case) -> dict[str, Any]:
    """Measures a case once in a new process. Returns the JSON that `benchmarks.geo_cases` prints."""
    command = [sys.executable, "-m", "benchmarks.geo_cases", *map(str, case)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"seconds": None, "cpu_seconds": None, "beyond_gb": None, "scale": 1.0, "error": last}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def compare(measured: dict[Case, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns one table row per case. ``ratio`` is the tool's median time over ours."""
    lines = []
    for (task, tool, rows), repeats in measured.items():
        seconds = [one["seconds"] for one in repeats if one["seconds"] is not None]
        ours = [one["seconds"] for one in measured.get((task, OURS, rows), []) if one["seconds"] is not None]
        comparable = bool(seconds and ours and tool != OURS)
        lines.append(
            {
                "task": task,
                "tool": tool,
                "rows": rows,
                "seconds": median(seconds) if seconds else None,
                "seconds_low": min(seconds, default=None),
                "seconds_high": max(seconds, default=None),
                "cpu_seconds": min((one["cpu_seconds"] for one in repeats if one["cpu_seconds"]), default=None),
                "beyond_gb": max((one["beyond_gb"] for one in repeats if one["beyond_gb"] is not None), default=None),
                "ratio": median(seconds) / median(ours) if comparable else None,
                "ratio_low": min(seconds) / max(ours) if comparable else None,
                "ratio_high": max(seconds) / min(ours) if comparable else None,
                "extrapolated": any(one["scale"] > 1 for one in repeats),
                "error": next((one["error"] for one in repeats if one["error"]), None),
            }
        )
    return lines


def as_table(lines: Sequence[dict[str, Any]]) -> Table:
    """Formats the rows as a table."""
    table = Table("task", "rows", "tool", "seconds", "GB beyond input", "times ours")
    for line in lines:
        start = [line["task"], f"{line['rows']:,}", line["tool"]]
        if line["error"]:
            table.add_row(*start, f"raises: {line['error']}", "", "")
            continue
        seconds = f"{line['seconds']:.3g} ({line['seconds_low']:.3g} to {line['seconds_high']:.3g})"
        ratio = f"{line['ratio']:.2g} ({line['ratio_low']:.2g} to {line['ratio_high']:.2g})" if line["ratio"] else ""
        if line["extrapolated"]:
            table.add_row(*start, f"{seconds}, extrapolated from a sample", "", ratio)
        else:
            table.add_row(*start, seconds, f"{line['beyond_gb']:.2f}", ratio)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.geo", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000], help="numbers of rows (default: 20000)")
    parser.add_argument("--full", action="store_true", help="use 10^6 to 10^8 rows; needs 8 GB of memory")
    parser.add_argument("--repeat", type=int, default=3, help="processes per case (default: 3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tasks whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(arguments)
    cases = plan(options.rows, full=options.full, only=options.only)
    if not cases or options.repeat < 1 or min(options.rows) < 1:
        parser.error(f"nothing to measure; the tasks are: {'; '.join(TASKS)}")
    # Repetitions alternate between the tools, so that load on the machine affects all of them.
    measured: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(options.repeat):
        for case in cases:
            measured[case].append(measure_in_a_process(case))
    lines = compare(measured)
    Console().print(as_table(lines))
    if options.json:
        about = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        }
        options.json.write_text(json.dumps(about | {"repeats": options.repeat, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
