"""Every number that makes one portrait: who it is, how it is posed and lit, and what the labels say.

An *identity* fixes the shape and the colours of a person; an *appearance* fixes the rest of one image (pose,
light, clothes, scene, expression). Both are functions of (seed, number) alone, so that any portrait can be
drawn again at any size, in any order and in any process.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EXPRESSIONS = ("delighted", "tender", "gleeful", "sly", "afraid", "sad", "angry", "sullen")
"""The eight ways to combine three small cues: mouth corners up or down (bit 2 of the index: 0 or 1), inner
ends of the brows up or down (bit 1), eyelids wide or narrow (bit 0). No cue alone tells more than one bit
of the class."""

ATTRIBUTES = (
    "glasses",
    "hat",
    "beard",
    "smiling",
    "mouth_open",
    "earrings",
    "long_hair",
    "freckles",
    "looking_left",
    "looking_right",
)
"""Binary facts about one image. Left and right are those of the picture, not of the person."""

SCENES = ("wall", "foliage", "lights", "books", "bricks", "hills", "street")
"""What is behind the person; painted by ``scenes``."""

Colour = tuple[float, float, float]

_IDENTITY, _APPEARANCE, _EXPRESSION_ORDER, _IDENTITY_ORDER = range(4)  # separate random streams

_SKIN_TONES = (
    (0.97, 0.82, 0.73),
    (0.90, 0.71, 0.58),
    (0.76, 0.55, 0.41),
    (0.58, 0.39, 0.28),
    (0.42, 0.27, 0.20),
)
_HAIR_TONES = (
    (0.10, 0.08, 0.09),
    (0.24, 0.15, 0.10),
    (0.42, 0.25, 0.14),
    (0.58, 0.24, 0.10),
    (0.84, 0.66, 0.36),
    (0.66, 0.65, 0.66),
    (0.22, 0.42, 0.48),
    (0.62, 0.30, 0.46),
)
_EYE_TONES = (
    (0.25, 0.14, 0.08),
    (0.42, 0.28, 0.10),
    (0.20, 0.42, 0.62),
    (0.25, 0.48, 0.28),
    (0.40, 0.45, 0.48),
)


class Dice:
    """Random draws of one stream, all of them through ``Generator.random``, NumPy's most stable method.

    Args:
        *key: non-negative integers that name the stream; the same key gives the same draws.
    """

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def between(self, low: float, high: float) -> float:
        """A number drawn evenly from [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self._generator.random()) < probability

    def below(self, count: int) -> int:
        """An integer drawn evenly from 0 .. count - 1."""
        return int(self._generator.random() * count)

    def values(self, count: int) -> np.ndarray:
        """float64 (count,) drawn evenly from [0, 1)."""
        return self._generator.random(count)

    def order(self, count: int) -> np.ndarray:
        """A permutation of 0 .. count - 1, int64 (count,)."""
        return np.argsort(self._generator.random(count), kind="stable")

    def colour(self, *, brightness: tuple[float, float], saturation: tuple[float, float]) -> Colour:
        """A colour of any hue: brightness is its largest channel, saturation its relative spread."""
        hue, top, spread = self.between(0, 6), self.between(*brightness), self.between(*saturation)
        ramps = (abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4))
        red, green, blue = (top * (1 - spread * (1 - min(max(ramp, 0.0), 1.0))) for ramp in ramps)
        return red, green, blue

    def near(self, tone: Colour, spread: float) -> Colour:
        """A colour close to ``tone``: each channel, and all of them together, moved by up to ``spread``."""
        together = self.between(-spread, spread)
        red, green, blue = (
            min(max(c + together + self.between(-spread, spread) / 2, 0.03), 1.0) for c in tone
        )
        return red, green, blue


@dataclass(frozen=True)
class Identity:
    """Shape and colours of one person. Lengths in head units: the face reaches from -1 (top) to 1 (chin)."""

    face_width: float  # half the width at the cheeks
    jaw: float  # how much the face narrows towards the chin, 0 .. 1
    eye_offset: float  # from the middle of the face, as a part of face_width
    eye_width: float  # half the length of an eye
    brow_thickness: float
    nose_length: float
    nose_width: float
    mouth_width: float  # half the width
    lip_height: float
    mouth_height: float  # where the mouth is, positive is down
    ear_size: float
    hairline: float  # where the hair begins above the forehead, negative is up
    hair_volume: float  # how far the hair stands off the head
    parting: float  # where the hairline peaks, -1 .. 1 of face_width
    curl: float  # 0 straight .. 1 curly
    skin: Colour
    hair: Colour
    eyes: Colour
    lips: Colour


@dataclass(frozen=True)
class Appearance:
    """Everything about one image that is not the person. Scene units: the picture reaches from -1 to 1."""

    identity: int
    expression: int
    centre: tuple[float, float]  # of the face, scene units
    scale: float  # scene units in one head unit
    roll: float  # in-plane rotation, radians
    yaw: float  # radians, positive turns the face to the right of the picture
    pitch: float  # head units by which the features move down
    light: tuple[float, float]  # direction the light comes from, -1 .. 1 in x and y
    ambient: float  # how much light reaches the shadows, 0 .. 1
    tint: Colour  # colour of the light
    mouth_corner: float  # how far the corners are above the middle of the mouth, head units
    brow_slant: float  # how far the inner ends of the brows are above the outer ones, head units
    lid_opening: float  # half the height of the open eye, head units
    mouth_gap: float  # height of the open mouth, head units
    gaze: float  # shift of the irises, head units, positive is right in the picture
    glasses: bool
    hat: bool
    beard: bool
    earrings: bool
    long_hair: bool
    freckles: bool
    scene: str

    @property
    def attributes(self) -> tuple[bool, ...]:
        """One value for each of ``ATTRIBUTES``."""
        return (
            self.glasses,
            self.hat,
            self.beard,
            self.mouth_corner > 0,
            self.mouth_gap > 0,
            self.earrings,
            self.long_hair,
            self.freckles,
            self.gaze < 0,
            self.gaze > 0,
        )


@lru_cache(maxsize=1024)
def identity_parameters(identity: int, *, seed: int) -> Identity:
    """Shape and colours of person number ``identity``, the same in every image and every split."""
    dice = Dice(seed, _IDENTITY, identity)
    tone = dice.between(0, len(_SKIN_TONES) - 1)
    lighter, darker, part = _SKIN_TONES[int(tone)], _SKIN_TONES[int(tone) + 1], tone % 1
    skin = dice.near(tuple(a + (b - a) * part for a, b in zip(lighter, darker, strict=True)), 0.04)
    rosy = dice.between(0.0, 0.14)
    return Identity(
        face_width=dice.between(0.68, 0.82),
        jaw=dice.between(0.10, 0.42),
        eye_offset=dice.between(0.42, 0.49),
        eye_width=dice.between(0.155, 0.185),
        brow_thickness=dice.between(0.065, 0.11),
        nose_length=dice.between(0.24, 0.36),
        nose_width=dice.between(0.10, 0.17),
        mouth_width=dice.between(0.26, 0.33),
        lip_height=dice.between(0.045, 0.085),
        mouth_height=dice.between(0.52, 0.60),
        ear_size=dice.between(0.15, 0.21),
        hairline=dice.between(-0.76, -0.58),
        hair_volume=dice.between(0.08, 0.24),
        parting=dice.between(-0.8, 0.8),
        curl=dice.between(0.0, 1.0),
        skin=skin,
        hair=dice.near(_HAIR_TONES[dice.below(len(_HAIR_TONES))], 0.05),
        eyes=dice.near(_EYE_TONES[dice.below(len(_EYE_TONES))], 0.04),
        lips=(skin[0] * (0.86 + rosy), skin[1] * 0.66, skin[2] * 0.68),
    )


def _balanced(index: int, count: int, seed: int, stream: int) -> int:
    """Class of an image such that every run of ``count`` images that starts at a multiple of it has each
    class once.
    """
    block, place = divmod(index, count)
    return _block_order(block, count, seed, stream)[place]


@lru_cache(maxsize=16)
def _block_order(block: int, count: int, seed: int, stream: int) -> tuple[int, ...]:
    return tuple(Dice(seed, stream, block).order(count).tolist())


def appearance_parameters(index: int, *, seed: int, num_identities: int) -> tuple[Appearance, Dice]:
    """What image number ``index`` shows.

    Args:
        index: number of the image, not negative.
        seed: of the whole data set.
        num_identities: how many people there are.

    Returns:
        The appearance, and the dice it was drawn with, for details that no label speaks of.
    """
    expression = _balanced(index, len(EXPRESSIONS), seed, _EXPRESSION_ORDER)
    identity = _balanced(index, num_identities, seed, _IDENTITY_ORDER)
    dice = Dice(seed, _APPEARANCE, index)
    corners_up, inner_brow_up, lids_wide = (expression >> bit & 1 == 0 for bit in (2, 1, 0))
    tint = dice.between(-0.09, 0.09)  # warm or cool
    exposure = dice.between(0.88, 1.08)
    gaze = dice.below(3) - 1
    appearance = Appearance(
        identity=identity,
        expression=expression,
        centre=(dice.between(-0.12, 0.12), dice.between(-0.08, 0.06)),
        scale=dice.between(0.50, 0.62),
        roll=dice.between(-0.18, 0.18),
        yaw=dice.between(-0.28, 0.28),
        pitch=dice.between(-0.05, 0.05),
        light=(dice.between(-0.9, 0.9), dice.between(-0.9, 0.1)),
        ambient=dice.between(0.62, 0.8),
        tint=(exposure * (1 + tint), exposure, exposure * (1 - tint)),
        mouth_corner=dice.between(0.13, 0.18) * (1 if corners_up else -1),
        brow_slant=dice.between(0.10, 0.14) * (1 if inner_brow_up else -1),
        lid_opening=dice.between(0.095, 0.12) if lids_wide else dice.between(0.055, 0.07),
        mouth_gap=dice.between(0.07, 0.14) if dice.chance(0.4) else 0.0,
        gaze=gaze * dice.between(0.05, 0.065),
        glasses=dice.chance(0.35),
        hat=dice.chance(0.3),
        beard=dice.chance(0.3),
        earrings=dice.chance(0.35),
        long_hair=dice.chance(0.45),
        freckles=dice.chance(0.35),
        scene=SCENES[dice.below(len(SCENES))],
    )
    return appearance, dice
