"""Draws docs/images/demo-scenes.jpg: demo scenes with roadwork in the top half, and without in the bottom half.

Run: python scripts/demo_picture.py
"""

from pathlib import Path

from PIL import Image

from roadwork.demo.light import CONDITIONS
from roadwork.demo.places import Sequence, plan_sequences
from roadwork.demo.scene import plan_scene

OUT = Path(__file__).parents[1] / "docs" / "images" / "demo-scenes.jpg"
COLUMNS, ROWS, TILE = 4, 4, (300, 225)


def choose(sequences: list[Sequence], label: int, count: int) -> list[Sequence]:
    """Returns the first sequences with this label, cycling through cities and light conditions."""
    cities = list(dict.fromkeys(sequence.city for sequence in sequences))
    wanted = [(cities[i % len(cities)], tuple(CONDITIONS)[i % len(CONDITIONS)]) for i in range(count)]
    return [next(s for s in sequences if (s.city, s.condition) == pair and s.label == label) for pair in wanted]


def main() -> None:
    sequences = plan_sequences(4800, seed=0)
    half = COLUMNS * ROWS // 2
    sheet = Image.new("RGB", (COLUMNS * TILE[0], ROWS * TILE[1]))
    for i, sequence in enumerate([*choose(sequences, 1, half), *choose(sequences, 0, half)]):
        picture = plan_scene(sequence, seed=0).pictures((640, 480))[2]
        sheet.paste(picture.resize(TILE, Image.Resampling.LANCZOS), (i % COLUMNS * TILE[0], i // COLUMNS * TILE[1]))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(OUT, quality=80, optimize=True)


if __name__ == "__main__":
    main()
