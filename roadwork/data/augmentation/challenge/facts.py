"""What the StreetVision validator does to a photo in its profile 2026-01: the numbers.

Level 0 is the photo's centre square. Level 1 turns the photo and cuts a random square out of it, which can lose the
roadwork. Levels 2 and 3 do so too, and then distort the picture. All are made at 224 x 224 pixels and saved as JPEG.
"""

from __future__ import annotations

LEVELS = 4
SIZE = 224
# Degrees to either side; what comes in from outside is black.
MAX_ANGLE_DEG = 20.0
# Of the whole photo's area: a square of a share drawn from here. One that does not fit is drawn again, up
# to so many times in all, and then the centre square is taken.
MIN_CROP_SHARE, MAX_CROP_SHARE, CROP_TRIES = 0.2, 1.0, 10
# By strength, which is 0 (off), 1 or 2; in the order in which they are applied.
CHROMA_FACTORS = (1.0, 0.4, 0.3)
VALUE_FACTORS = (1.0, 0.85, 0.725)
DOWNSAMPLINGS = (1, 2, 3)
# Of values from 0 to 1 in YCbCr as television has it: luma from 16 to 235 and chroma from 16 to 240 of 255.
NOISE_VARIANCES = (0.0, 0.001, 0.002)
LUMA_RANGE, CHROMA_RANGE = 219 / 255, 224 / 255
# Pixels; the Gaussian's deviation is a sixth of it. 1: no blur.
BLUR_KERNELS = (1, 7, 9)
# By level: of how many strengths, from 0, each distortion's is drawn, uniformly and on its own.
STRENGTHS = ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (2, 2, 2, 1, 1), (3, 3, 3, 3, 3))
# Pillow's default.
JPEG_QUALITY = 75
