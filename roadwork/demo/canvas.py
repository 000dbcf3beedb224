"""Drawing tools: a pinhole camera, a canvas in metres, and placed items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from roadwork.demo.light import RGB, Light

NEAR_M = 1.2  # near clipping distance, so that nothing behind the lens is projected


@dataclass(frozen=True)
class Camera:
    """A level camera looking along the street.

    World coordinates in metres: x to the right of the centre line, y up, z along the street. Scenes are planned for
    right-hand traffic; ``side`` -1 mirrors them for left-hand traffic.

    Attributes:
        width: width of the canvas in pixels.
        height: height of the canvas in pixels.
        focal: focal length in pixels.
        centre: column of the vanishing point, in pixels.
        horizon: row of the vanishing point, in pixels.
        x: position across the street, in metres.
        y: height above the road, in metres.
        z: position along the street, in metres.
        side: 1 drives on the right, -1 on the left.
    """

    width: int
    height: int
    focal: float
    centre: float
    horizon: float
    x: float
    y: float
    z: float
    side: int

    def scale(self, z: float) -> float:
        """Pixels per metre at this position along the street."""
        return self.focal / max(z - self.z, NEAR_M)

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Column and row of a point in the world."""
        scale = self.scale(z)
        return self.centre + self.side * (x - self.x) * scale, self.horizon - (y - self.y) * scale

    def sees(self, z: float) -> bool:
        """Whether this position along the street is in front of the camera."""
        return z - self.z > NEAR_M


Point = tuple[float, float]


class Canvas:
    """An image drawn through a camera in some light.

    With ``stencil`` every shape has that grey value, which measures the visible area of objects.
    """

    def __init__(self, image: Image.Image, camera: Camera, light: Light) -> None:
        self.image = image
        self.camera = camera
        self.light = light
        self.stencil: int | None = None
        self._draw = ImageDraw.Draw(image)
        self._veil = ImageDraw.Draw(image, "RGBA") if image.mode == "RGB" else None

    def fill(self, points: Sequence[Point], colour: RGB) -> None:
        """Draws a polygon in pixel coordinates, in this final colour."""
        self._draw.polygon(points, fill=colour if self.stencil is None else self.stencil)

    def ellipse(self, box: tuple[float, float, float, float], colour: RGB) -> None:
        """Draws an ellipse in pixel coordinates, in this final colour."""
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            self._draw.ellipse(box, fill=colour if self.stencil is None else self.stencil)

    def line(self, points: Sequence[Point], width: int, colour: RGB) -> None:
        """Draws a line in pixel coordinates, in this final colour."""
        self._draw.line(points, fill=colour if self.stencil is None else self.stencil, width=max(1, width))

    def solid(self, points: Sequence[tuple[float, float, float]], colour: RGB, shade: float = 1.0) -> None:
        """Draws a polygon in world coordinates, with the light at its first point."""
        project = self.camera.project
        distance = max(0.0, points[0][2] - self.camera.z)
        self.fill([project(*point) for point in points], self.light.tone(colour, distance, shade))

    def ground(self, x0: float, x1: float, z0: float, z1: float, colour: RGB) -> None:
        """Draws a rectangle on the road."""
        self.solid(((x0, 0.0, z0), (x1, 0.0, z0), (x1, 0.0, z1), (x0, 0.0, z1)), colour)

    def shadow(self, x: float, z: float, half_width: float, length: float) -> None:
        """Draws the soft shadow of an object that starts at z."""
        if self._veil is None:
            return
        project, strength = self.camera.project, 46
        if length > 2.5:  # vehicles
            for grow in (0.3, 0.12, 0.0):
                a, b, near, far = x - half_width - grow, x + half_width + grow, z - grow * 1.5, z + length
                corners = ((a, near), (b, near), (b, far), (a, far))
                self._veil.polygon([project(cx, 0.0, cz) for cx, cz in corners], fill=(8, 10, 16, strength))
            return
        for grow in (1.4, 1.1):
            left, _ = project(x - half_width * grow, 0.0, z)
            right, _ = project(x + half_width * grow, 0.0, z)
            _, near = project(x, 0.0, z - length * 0.6 * grow)
            _, far = project(x, 0.0, z + length * grow)
            if near - far >= 1 and abs(right - left) >= 1:
                self._veil.ellipse((min(left, right), far, max(left, right), near), fill=(8, 10, 16, strength))

    def halo(self, u: float, v: float, radius: float, colour: RGB) -> None:
        """Draws a disc of light in pixel coordinates that fades towards its rim."""
        image = self.image
        size = min(round(radius * 2), image.height)
        if size < 3 or not (-radius < u < image.width + radius and -radius < v < image.height + radius):
            return
        left, top = round(u - size / 2), round(v - size / 2)
        image.paste(colour, (left, top, left + size, top + size), _halo_mask(size, 170 if self.light.is_lit else 60))


class Pen:
    """Draws in metres around a foot point, in the vertical plane that faces the camera."""

    def __init__(self, canvas: Canvas, x: float, z: float) -> None:
        camera = canvas.camera
        self.canvas = canvas
        self.x, self.z = x, z
        self.light = canvas.light
        self.distance = z - camera.z
        self.scale = camera.scale(z)
        self._u, self._v = camera.project(x, 0.0, z)
        self._du = self.scale * camera.side

    def at(self, dx: float, dz: float) -> Pen:
        """A pen moved to the right and away from the camera."""
        return Pen(self.canvas, self.x + dx, self.z + dz)

    def polygon(self, points: Sequence[Point], colour: RGB, shade: float = 1.0) -> None:
        u, v, du, scale = self._u, self._v, self._du, self.scale
        tone = self.light.tone(colour, self.distance, shade)
        self.canvas.fill([(u + x * du, v - y * scale) for x, y in points], tone)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, *, shade: float = 1.0) -> None:
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, shade)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: RGB, *, shade: float = 1.0) -> None:
        u, v = self._u + x * self._du, self._v - y * self.scale
        box = (u - rx * self.scale, v - ry * self.scale, u + rx * self.scale, v + ry * self.scale)
        self.canvas.ellipse(box, self.light.tone(colour, self.distance, shade))

    def line(self, points: Sequence[Point], width: float, colour: RGB) -> None:
        u, v, du, scale = self._u, self._v, self._du, self.scale
        tone = self.light.tone(colour, self.distance)
        self.canvas.line([(u + x * du, v - y * scale) for x, y in points], round(width * scale), tone)

    def glow(self, x: float, y: float, radius: float, colour: RGB) -> None:
        """Draws the halo of a lamp."""
        if self.canvas.stencil is None:
            self.canvas.halo(self._u + x * self._du, self._v - y * self.scale, radius * self.scale * 2.2, colour)

    def stripes(self, x0: float, y0: float, x1: float, y1: float, colours: tuple[RGB, RGB], *, pitch: float) -> None:
        """Draws a board with diagonal stripes, ``pitch`` metres apart."""
        self.rect(x0, y0, x1, y1, colours[0])
        slant = y1 - y0
        left = x0 - slant
        while left < x1:
            right = left + pitch / 2
            board = ((left, y0), (right, y0), (right + slant, y1), (left + slant, y1))
            clipped = _clip(_clip(board, x0, 1), x1, -1)
            if len(clipped) > 2:
                self.polygon(clipped, colours[1])
            left += pitch

    def box(self, x0: float, x1: float, y0: float, y1: float, length: float, *, colour: RGB) -> None:
        """Draws a box that extends ``length`` metres away: its front, visible side and top."""
        camera, canvas = self.canvas.camera, self.canvas
        far = self.z + length
        for x, facing in ((x0, -1), (x1, 1)):
            if (camera.x - (self.x + x)) * facing > 0:
                wx = self.x + x
                canvas.solid(((wx, y0, self.z), (wx, y0, far), (wx, y1, far), (wx, y1, self.z)), colour, 0.72)
        if y1 < camera.y:
            a, b = self.x + x0, self.x + x1
            canvas.solid(((a, y1, self.z), (b, y1, self.z), (b, y1, far), (a, y1, far)), colour, 1.15)
        self.rect(x0, y0, x1, y1, colour)


@lru_cache(maxsize=512)
def _halo_mask(size: int, strength: int) -> Image.Image:
    """(size, size) grey disc, falling as the cube of the distance to its rim."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    inside = np.clip(1 - np.hypot(axis[:, None], axis[None, :]), 0, 1)
    return Image.fromarray((inside**3 * strength).astype(np.uint8))


def _clip(points: Sequence[Point], limit: float, sign: int) -> list[Point]:
    """The part of a convex polygon with sign * x >= sign * limit (Sutherland and Hodgman)."""
    if not points:
        return []
    kept: list[Point] = []
    for (xa, ya), (xb, yb) in pairwise((*points, points[0])):
        a_in, b_in = sign * (xa - limit) >= 0, sign * (xb - limit) >= 0
        if a_in:
            kept.append((xa, ya))
        if a_in != b_in:
            kept.append((limit, ya + (yb - ya) * (limit - xa) / (xb - xa)))
    return kept


@dataclass(frozen=True)
class Item:
    """An object with a foot point, a shadow and a drawing function.

    Attributes:
        x: to the right of the centre line, in metres.
        z: along the street in the first image, in metres.
        draw: draws it with a pen at its foot point.
        half_width: half the width of its shadow in metres.
        length: length of its shadow away from the camera in metres.
        speed: metres along the street from one image to the next.
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
        """Position along the street in this image, in metres."""
        return self.z + frame * self.speed


def draw_items(canvas: Canvas, items: list[Item], frame: int) -> None:
    """Draws all shadows, then all items, the farthest first."""
    seen = [item for item in items if canvas.camera.sees(item.place(frame) - 0.3)]
    seen.sort(key=lambda item: -item.place(frame))
    for item in seen:
        canvas.shadow(item.x, item.place(frame), item.half_width, item.length)
    for item in seen:
        item.draw(Pen(canvas, item.x, item.place(frame)))


def stencil_items(canvas: Canvas, items: list[Item], frame: int) -> None:
    """Draws roadwork in white and whatever occludes it in black."""
    works = [item.place(frame) for item in items if item.is_roadwork]
    seen = [item for item in items if canvas.camera.sees(item.place(frame) - 0.3) and item.place(frame) <= max(works)]
    for item in sorted(seen, key=lambda item: -item.place(frame)):
        canvas.stencil = 255 if item.is_roadwork else 0
        item.draw(Pen(canvas, item.x, item.place(frame)))
