"""One thing that stands or moves in a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roadwork.data.demo.canvas import Canvas, Pen


@dataclass(frozen=True)
class Item:
    """Something with a foot point, a shadow and a way to draw itself.

    Attributes:
        x: to the right of the centre line, in metres.
        z: along the street in the first picture, in metres.
        draw: draws it with a pen at its foot point.
        half_width: of its shadow, in metres.
        length: of its shadow, away from the camera, in metres.
        speed: metres along the street from one picture to the next.
        is_roadwork: whether it makes the scene's label Roadwork.
    """

    x: float
    z: float
    draw: Callable[[Pen], None]
    half_width: float = 0.3
    length: float = 0.5
    speed: float = 0.0
    is_roadwork: bool = False

    def place(self, frame: int) -> float:
        """Position along the street in this picture, in metres."""
        return self.z + frame * self.speed


def draw_items(canvas: Canvas, items: list[Item], frame: int) -> None:
    """All shadows, then all things, the farthest first."""
    seen = [item for item in items if canvas.camera.sees(item.place(frame) - 0.3)]
    seen.sort(key=lambda item: -item.place(frame))
    for item in seen:
        canvas.shadow(item.x, item.place(frame), item.half_width, item.length)
    for item in seen:
        item.draw(Pen(canvas, item.x, item.place(frame)))


def stencil_items(canvas: Canvas, items: list[Item], frame: int) -> None:
    """Roadwork in white, and what hides it in black."""
    works = [item.place(frame) for item in items if item.is_roadwork]
    seen = [item for item in items if canvas.camera.sees(item.place(frame) - 0.3) and item.place(frame) <= max(works)]
    for item in sorted(seen, key=lambda item: -item.place(frame)):
        canvas.stencil = 255 if item.is_roadwork else 0
        item.draw(Pen(canvas, item.x, item.place(frame)))
