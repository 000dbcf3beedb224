"""Renders the result table of `roadwork evaluate` as SVG.

Example: python scripts/result_picture.py outputs/demo/latest docs/images/demo-result.svg
"""

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from roadwork.metrics.results import format_results


def main(run: Path, picture: Path) -> None:
    """Writes the result table of a run's `results.json` as SVG."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(format_results("val_test", results["val_test"]))
    svg = console.export_svg(title=f"roadwork evaluate {run}")
    # Without web fonts, so that the SVG renders offline.
    picture.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
