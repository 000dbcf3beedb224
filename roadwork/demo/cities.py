"""Cities of the demo data, and how their streets look."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.demo.light import RGB, Sensor

RED, WHITE, BLACK = (206, 30, 34), (240, 240, 236), (26, 26, 28)
ORANGE, YELLOW = (244, 110, 24), (246, 190, 22)


@dataclass(frozen=True)
class Look:
    """The look of a region's streets.

    Attributes:
        side: 1 drives on the right, -1 on the left.
        walls: colours of facades.
        floors: fewest and most floors of a building.
        frontage: narrowest and widest building, in metres.
        roof: ``flat``, ``gable`` or ``pitched``.
        setback: metres of garden between sidewalk and facade.
        lanes: lanes per direction.
        centre_line: colour of the line between the directions.
        double_line: whether that line is double and solid.
        trees: kinds of street trees.
        sign: shape of a warning sign, ``triangle`` or ``diamond``.
        sign_face: background of a roadwork sign.
        channeliser: device that closes a lane, ``panel``, ``barrel`` or ``cone``.
        barrier: ``board``, ``barricade``, ``frame`` or ``plastic``.
        stripes: the two colours of its stripes.
        poles: whether wires hang on poles along the street.
        warmth: tint of the light; above 1 is yellow.
        sensor: what the camera changes; None for the plain one.
    """

    side: int
    walls: tuple[RGB, ...]
    floors: tuple[int, int]
    frontage: tuple[float, float]
    roof: str
    setback: float
    lanes: int
    centre_line: RGB
    double_line: bool
    trees: tuple[str, ...]
    sign: str
    sign_face: RGB
    channeliser: str
    barrier: str
    stripes: tuple[RGB, RGB]
    poles: bool
    warmth: float
    sensor: Sensor | None = None


@dataclass(frozen=True)
class City:
    """A city of the demo data.

    Attributes:
        share: share of all sequences; small for deployment cities, as in practice.
        is_deployment: whether ``deployment.geojson`` has points here.
    """

    slug: str
    name: str
    country: str
    latitude: float
    longitude: float
    share: float
    is_deployment: bool
    look: Look


_BERLIN = Look(
    side=1,
    walls=((206, 190, 158), (188, 172, 150), (214, 204, 186), (176, 146, 116), (196, 178, 130), (170, 166, 160)),
    floors=(4, 6), frontage=(14, 22), roof="pitched", setback=0.0, lanes=1, centre_line=WHITE, double_line=False,
    trees=("round", "tall"), sign="triangle", sign_face=WHITE, channeliser="panel", barrier="board",
    stripes=(WHITE, RED), poles=False, warmth=0.98,
)  # fmt: skip


_AMSTERDAM = Look(
    side=1,
    walls=((122, 66, 50), (96, 58, 48), (146, 84, 62), (78, 62, 58), (170, 150, 128), (132, 92, 70)),
    floors=(3, 5), frontage=(6, 9), roof="gable", setback=0.0, lanes=1, centre_line=WHITE, double_line=False,
    trees=("round", "slender"), sign="triangle", sign_face=WHITE, channeliser="panel", barrier="board",
    stripes=(WHITE, RED), poles=False, warmth=0.96,
)  # fmt: skip


_LONDON = Look(
    side=-1,
    walls=((150, 104, 78), (178, 150, 112), (226, 220, 206), (124, 84, 66), (196, 180, 150)),
    floors=(3, 4), frontage=(8, 14), roof="pitched", setback=1.5, lanes=1, centre_line=WHITE, double_line=False,
    trees=("round", "slender"), sign="triangle", sign_face=WHITE, channeliser="cone", barrier="plastic",
    stripes=(RED, WHITE), poles=False, warmth=0.97,
)  # fmt: skip


_NEW_YORK = Look(
    side=1,
    walls=((142, 72, 54), (160, 108, 82), (112, 84, 70), (186, 166, 140), (120, 122, 126), (92, 62, 52)),
    floors=(5, 9), frontage=(10, 20), roof="flat", setback=0.0, lanes=1, centre_line=YELLOW, double_line=True,
    trees=("round", "slender"), sign="diamond", sign_face=ORANGE, channeliser="barrel", barrier="barricade",
    stripes=(WHITE, ORANGE), poles=False, warmth=1.0,
)  # fmt: skip


_LOS_ANGELES = Look(
    side=1,
    walls=((232, 218, 190), (214, 180, 140), (240, 232, 216), (196, 204, 200), (220, 196, 176), (180, 130, 100)),
    floors=(1, 3), frontage=(12, 26), roof="flat", setback=2.5, lanes=2, centre_line=YELLOW, double_line=True,
    trees=("palm", "palm", "round"), sign="diamond", sign_face=ORANGE, channeliser="barrel", barrier="barricade",
    stripes=(WHITE, ORANGE), poles=True, warmth=1.04,
)  # fmt: skip


_SAO_PAULO = Look(
    side=1,
    walls=((226, 206, 120), (120, 170, 176), (214, 130, 100), (236, 228, 214), (150, 180, 130), (190, 190, 194)),
    floors=(2, 8), frontage=(9, 18), roof="flat", setback=0.5, lanes=1, centre_line=YELLOW, double_line=False,
    trees=("round", "palm"), sign="diamond", sign_face=ORANGE, channeliser="cone", barrier="plastic",
    stripes=(ORANGE, WHITE), poles=True, warmth=1.02,
)  # fmt: skip


_TOKYO = Look(
    side=-1,
    walls=((206, 204, 198), (180, 182, 184), (224, 218, 208), (150, 146, 142), (196, 184, 170), (170, 178, 188)),
    floors=(3, 9), frontage=(7, 13), roof="flat", setback=0.0, lanes=1, centre_line=WHITE, double_line=False,
    trees=("slender", "round"), sign="diamond", sign_face=YELLOW, channeliser="cone", barrier="frame",
    stripes=(YELLOW, BLACK), poles=True, warmth=0.99,
)  # fmt: skip


_MELBOURNE = Look(
    side=-1,
    walls=((186, 130, 96), (224, 210, 186), (150, 92, 70), (200, 200, 196), (232, 224, 208)),
    floors=(1, 3), frontage=(9, 16), roof="pitched", setback=3.0, lanes=1, centre_line=WHITE, double_line=False,
    trees=("gum", "round"), sign="diamond", sign_face=YELLOW, channeliser="cone", barrier="barricade",
    stripes=(WHITE, ORANGE), poles=True, warmth=1.03,
)  # fmt: skip


CITIES = (
    City("berlin", "Berlin", "Germany", 52.5200, 13.4050, 0.18, is_deployment=False, look=_BERLIN),
    City("london", "London", "United Kingdom", 51.5074, -0.1278, 0.16, is_deployment=False, look=_LONDON),
    City("new-york", "New York", "United States", 40.7128, -74.0060, 0.18, is_deployment=False, look=_NEW_YORK),
    City(
        "los-angeles", "Los Angeles", "United States", 34.0522, -118.2437, 0.16, is_deployment=False, look=_LOS_ANGELES
    ),
    City("sao-paulo", "São Paulo", "Brazil", -23.5505, -46.6333, 0.16, is_deployment=False, look=_SAO_PAULO),
    City("amsterdam", "Amsterdam", "Netherlands", 52.3676, 4.9041, 0.05, is_deployment=True, look=_AMSTERDAM),
    City("tokyo", "Tokyo", "Japan", 35.6762, 139.6503, 0.06, is_deployment=True, look=_TOKYO),
    City("melbourne", "Melbourne", "Australia", -37.8136, 144.9631, 0.05, is_deployment=True, look=_MELBOURNE),
)

_CAIRO = Look(
    side=1,
    walls=((214, 190, 150), (198, 166, 120), (180, 150, 112), (226, 208, 172), (168, 132, 100)),
    floors=(5, 10), frontage=(8, 14), roof="flat", setback=0.0, lanes=2, centre_line=YELLOW, double_line=False,
    trees=("palm", "slender"), sign="triangle", sign_face=YELLOW, channeliser="cone", barrier="frame",
    stripes=(YELLOW, BLACK), poles=True, warmth=1.05, sensor=Sensor(tint=(1.06, 0.94, 0.72), contrast=0.7, blur=0.002),
)  # fmt: skip


# A city that is no part of the default dataset, photographed with another camera.
ELSEWHERE = (City("cairo", "Cairo", "Egypt", 30.0444, 31.2357, 1.0, is_deployment=True, look=_CAIRO),)
