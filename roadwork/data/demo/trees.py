"""Street trees, in leaf or in autumn colours."""

from __future__ import annotations

import numpy as np

from roadwork.data.demo.canvas import Pen
from roadwork.data.demo.light import RGB, mix

GREENS: tuple[RGB, ...] = ((62, 104, 48), (78, 120, 56), (50, 92, 52), (94, 124, 62))
AUTUMN: tuple[RGB, ...] = ((226, 128, 32), (206, 84, 30), (230, 170, 40), (186, 62, 34))
BARK: RGB = (86, 68, 54)


class Tree:
    """A tree whose leaves are drawn once and kept for every picture."""

    def __init__(self, kind: str, leaves: RGB, rng: np.random.Generator) -> None:
        self.kind = kind
        self.leaves = leaves
        self.height = float(rng.uniform(5.0, 8.5)) * (1.25 if kind in {"palm", "tall"} else 1.0)
        count = 15
        angles, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
        self.clumps = np.stack([np.cos(angles) * reach, np.sin(angles) * reach, rng.uniform(0.34, 0.55, count)], 1)
        self.lean = float(rng.uniform(-0.3, 0.3))

    def __call__(self, pen: Pen) -> None:
        {"palm": self._palm, "gum": self._gum}.get(self.kind, self._crown)(pen)

    def _crown(self, pen: Pen) -> None:
        wide = {"slender": 1.15, "tall": 1.5}.get(self.kind, 1.9)
        tall = {"slender": 2.3, "tall": 2.9}.get(self.kind, 1.8)
        middle = self.height - tall * 0.8
        pen.polygon(((-0.17, 0), (0.17, 0), (0.1, middle), (-0.1, middle)), BARK)
        pen.line(((0, middle - 1.3), (wide * 0.5, middle)), 0.09, BARK)
        pen.line(((0, middle - 1.0), (-wide * 0.5, middle)), 0.09, BARK)
        self._clumps(pen, 0.0, middle, wide, tall)

    def _gum(self, pen: Pen) -> None:
        pale: RGB = (190, 178, 160)
        top = self.height
        pen.polygon(((-0.2, 0), (0.2, 0), (0.5, top * 0.75), (0.35, top * 0.75)), pale)
        pen.line(((0.1, top * 0.35), (-1.3, top * 0.8)), 0.14, pale)
        self._clumps(pen, 0.7, top * 0.82, 1.4, 0.9)
        self._clumps(pen, -1.2, top * 0.85, 1.1, 0.7)

    def _clumps(self, pen: Pen, x: float, y: float, wide: float, tall: float) -> None:
        """Dark below and behind, bright above and in front."""
        order = np.argsort(self.clumps[:, 1])
        for rank, (cx, cy, size) in enumerate(self.clumps[order].tolist()):
            shade = 0.66 + 0.5 * (rank / len(order))
            pen.oval(
                x + cx * wide * 0.75, y + cy * tall * 0.7, size * wide, size * tall * 0.8, self.leaves, shade=shade
            )

    def _palm(self, pen: Pen) -> None:
        top, lean = self.height, self.lean
        pen.polygon(((-0.18, 0), (0.18, 0), (lean + 0.1, top), (lean - 0.1, top)), mix(BARK, (160, 140, 120), 0.5))
        for i, (cx, cy, size) in enumerate(self.clumps.tolist()):
            reach, drop = 1.3 + size, cy * 1.1 - 0.1
            tip = (lean + cx * reach * 1.2, top + drop - 0.5)
            bend = (lean + cx * reach * 0.6, top + abs(drop) * 0.5 + 0.5)
            pen.polygon(((lean, top - 0.1), bend, tip, (bend[0], bend[1] - 0.35)), self.leaves, 0.7 + 0.03 * i)
