"""The pinhole camera that turns metres in the street into pixels of the picture."""

from __future__ import annotations

from dataclasses import dataclass

NEAR_M = 1.2  # what lies nearer than this is cut off, so that nothing is projected from behind the lens


@dataclass(frozen=True)
class Camera:
    """A level camera looking along the street.

    The world has x to the right of the centre line, y up and z along the street, in metres. Everything is planned
    for traffic on the right; ``side`` -1 mirrors it for countries that drive on the left.

    Attributes:
        width: of the canvas, in pixels.
        height: of the canvas, in pixels.
        focal: focal length in pixels.
        centre: column of the vanishing point, in pixels.
        horizon: row of the vanishing point, in pixels.
        x: position across the street, in metres.
        y: height of the eye above the road, in metres.
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
        """Pixels a metre at this place along the street."""
        return self.focal / max(z - self.z, NEAR_M)

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Column and row of a point in the world."""
        scale = self.scale(z)
        return self.centre + self.side * (x - self.x) * scale, self.horizon - (y - self.y) * scale

    def sees(self, z: float) -> bool:
        """Whether something at this place along the street lies in front of the lens."""
        return z - self.z > NEAR_M
