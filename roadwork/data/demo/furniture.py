"""What stands on sidewalks everywhere: lamps, poles, and the things that look like roadwork but are none."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.data.demo.canvas import Pen
from roadwork.data.demo.light import RGB, mix
from roadwork.data.demo.regions import BLACK, RED, WHITE, YELLOW

STEEL: RGB = (104, 108, 114)
ADVERTS: tuple[tuple[RGB, RGB], ...] = (
    ((250, 84, 20), (250, 240, 220)), ((206, 30, 34), (242, 242, 240)), ((255, 196, 40), (26, 26, 28)),
    ((26, 26, 28), (255, 196, 40)), ((206, 236, 40), (26, 26, 28)), ((244, 110, 24), (26, 26, 28)),
    ((40, 96, 168), (240, 240, 240)), ((242, 242, 240), (206, 30, 34)),
)  # fmt: skip


@dataclass(frozen=True)
class Lamp:
    """A street lamp of 7 m whose arm reaches over the road, in the direction ``towards`` (1 or -1)."""

    towards: int

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.09, 0, 0.09, 1.0, STEEL, shade=0.8)
        pen.rect(-0.06, 0, 0.06, 6.9, STEEL)
        pen.line(((0, 6.8), (self.towards * 0.7, 7.15), (self.towards * 1.7, 7.2)), 0.09, STEEL)
        pen.rect(self.towards * 1.7 - 0.35, 7.08, self.towards * 1.7 + 0.35, 7.24, (70, 72, 76))
        if pen.light.is_lit:
            pen.rect(self.towards * 1.7 - 0.28, 7.02, self.towards * 1.7 + 0.28, 7.1, (255, 255, 230), shade=2.0)
            pen.glow(self.towards * 1.7, 7.05, 1.1, (255, 214, 150))


@dataclass(frozen=True)
class WirePole:
    """A wooden pole with cross-arms, an insulator and a transformer."""

    def __call__(self, pen: Pen) -> None:
        wood: RGB = (104, 88, 74)
        pen.polygon(((-0.16, 0), (0.16, 0), (0.11, 9.5), (-0.11, 9.5)), wood)
        for y in (8.2, 9.0):
            pen.rect(-1.1, y, 1.1, y + 0.13, wood, shade=0.85)
            for x in (-1.0, -0.5, 0.5, 1.0):
                pen.rect(x - 0.04, y + 0.13, x + 0.04, y + 0.3, (200, 200, 200))
        pen.rect(0.16, 6.6, 0.6, 7.6, (126, 130, 134))


@dataclass(frozen=True)
class Bollard:
    """A red-white post that keeps cars off the sidewalk."""

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.07, 0.0, 0.07, 0.95, WHITE)
        for y in (0.08, 0.42, 0.76):
            pen.rect(-0.07, y, 0.07, y + 0.17, RED)
        pen.oval(0, 0.95, 0.07, 0.05, RED)


@dataclass(frozen=True)
class Delineator:
    """A white guide post with a black band and an orange reflector."""

    def __call__(self, pen: Pen) -> None:
        pen.polygon(((-0.07, 0), (0.07, 0), (0.06, 1.0), (-0.06, 0.95)), WHITE)
        pen.rect(-0.065, 0.62, 0.065, 0.84, BLACK)
        pen.rect(-0.03, 0.66, 0.03, 0.8, (250, 130, 30))


@dataclass(frozen=True)
class Advert:
    """A poster: a lit panel on the sidewalk, or a billboard on posts."""

    ground: RGB
    print: RGB
    is_billboard: bool

    def __call__(self, pen: Pen) -> None:
        half, low, high = (1.9, 2.6, 4.7) if self.is_billboard else (0.65, 0.45, 2.3)
        for x in (-half * 0.7, half * 0.7):
            pen.rect(x - 0.06, 0, x + 0.06, low, STEEL)
        pen.rect(-half - 0.08, low - 0.08, half + 0.08, high + 0.08, (60, 62, 66))
        glow = 1.5 if pen.light.is_lit else 1.0
        pen.rect(-half, low, half, high, self.ground, shade=glow)
        tall = high - low
        pen.oval(-half * 0.35, low + tall * 0.55, half * 0.35, tall * 0.26, self.print, shade=glow)
        for i in range(3):
            y = low + tall * (0.28 + 0.17 * i)
            pen.rect(half * 0.1, y, half * (0.85 - 0.18 * i), y + tall * 0.08, self.print, shade=glow)
        pen.rect(
            -half * 0.8, low + tall * 0.08, half * 0.8, low + tall * 0.16, mix(self.print, self.ground, 0.4), shade=glow
        )


@dataclass(frozen=True)
class TrafficSign:
    """A permanent sign: a warning of children or a bend, a speed limit, or no parking."""

    kind: str
    shape: str

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.04, 0, 0.04, 2.3, STEEL)
        if self.kind == "warning" and self.shape == "triangle":
            pen.polygon(((-0.42, 2.2), (0.42, 2.2), (0, 2.93)), RED)
            pen.polygon(((-0.27, 2.29), (0.27, 2.29), (0, 2.76)), WHITE)
            pen.rect(-0.04, 2.34, 0.04, 2.6, BLACK)
        elif self.kind == "warning":
            pen.polygon(((0, 2.1), (0.46, 2.56), (0, 3.02), (-0.46, 2.56)), YELLOW)
            pen.line(((-0.02, 2.3), (-0.02, 2.6), (0.12, 2.75)), 0.08, BLACK)
        elif self.kind == "limit":
            pen.oval(0, 2.6, 0.34, 0.34, RED)
            pen.oval(0, 2.6, 0.25, 0.25, WHITE)
            for x in (-0.12, 0.02):
                pen.rect(x, 2.5, x + 0.1, 2.7, BLACK)
        else:
            pen.oval(0, 2.6, 0.34, 0.34, RED)
            pen.oval(0, 2.6, 0.27, 0.27, (38, 74, 160))
            pen.line(((-0.19, 2.79), (0.19, 2.41)), 0.08, RED)


@dataclass(frozen=True)
class Bin:
    """A litter bin or letter box."""

    colour: RGB

    def __call__(self, pen: Pen) -> None:
        pen.box(-0.26, 0.26, 0.1, 1.05, 0.4, colour=self.colour)
        pen.rect(-0.18, 0.8, 0.18, 0.88, BLACK)
        pen.rect(-0.28, 1.0, 0.28, 1.1, mix(self.colour, BLACK, 0.3))
