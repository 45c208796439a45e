"""Head: a portrait being painted: where its parts are, how light falls on it, what labels call them."""

from dataclasses import dataclass

import numpy as np

from datamodules.drawing.canvas import NOISES, Canvas, Plane, Window, edge, ellipse_distance, fade
from datamodules.drawing.parameters import Appearance, Dice, Identity

PARTS = (
    "background",
    "skin",
    "neck",
    "nose",
    "left_brow",
    "right_brow",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "mouth",
    "hair",
    "beard",
    "hat",
    "glasses",
    "earrings",
    "clothes",
)
PART = {name: number for number, name in enumerate(PARTS)}
"""Index of each of ``PARTS``."""

POINTS = (
    "left_brow_outer",
    "left_brow_inner",
    "right_brow_inner",
    "right_brow_outer",
    "left_eye_outer",
    "left_eye",
    "left_eye_inner",
    "right_eye_inner",
    "right_eye",
    "right_eye_outer",
    "left_nostril",
    "nose_tip",
    "right_nostril",
    "mouth_left",
    "mouth_top",
    "mouth_right",
    "mouth_bottom",
    "left_cheek",
    "chin",
    "right_cheek",
)

BOXES = ("face", "eye", "mouth", "glasses", "hat")


@dataclass(frozen=True)
class Span:
    """Where a feature lies on the turned head: its middle and half its width as seen, in head units."""

    u: float
    v: float
    half_width: float


class Head:
    """What the painters of single parts share.

    Args:
        person: who it is.
        appearance: pose, light and expression.
        dice: decides what no label speaks of.
        size: height and width of the picture, in pixels.

    Attributes:
        canvas: what is painted on.
        boxes: name and edges (x0, y0, x1, y1, pixels) of what has been painted so far.
        pixel: size of a pixel, head units.
        eyes: left and right in the picture, like ``brows``.
        across: ``u`` as a part of the width of the face, (H, W), like the following.
        face: coverage of the face; ``face_distance`` is that to its edge, head units.
        light: brightness of a white head.
        grain: fine noise of skin and cloth, in [-1, 1].
        strands: of hair, in [-1, 1].
    """

    def __init__(self, person: Identity, appearance: Appearance, dice: Dice, size: int) -> None:
        self.person, self.appearance, self.dice = person, appearance, dice
        self.canvas = Canvas(
            size=size, centre=appearance.centre, scale=appearance.scale, roll=appearance.roll
        )
        self.boxes: list[tuple[str, tuple[float, float, float, float]]] = []
        self.pixel = self.canvas.head_pixel
        eye = person.eye_offset * person.face_width
        self.eyes = [self._span(side * eye, -0.06, person.eye_width) for side in (-1, 1)]
        self.brows = [self._span(side * (eye + 0.01), -0.35, 0.215) for side in (-1, 1)]
        self.mouth = self._span(0.0, person.mouth_height, person.mouth_width)
        self.nose = self._span(0.0, 0.02 + person.nose_length, person.nose_width)
        u, v = self.canvas.u, self.canvas.v
        self.across = u * np.float32(1 / person.face_width)
        jaw = 1 - person.jaw * np.clip(v, 0, 1.2) ** 2
        self.face_distance = ellipse_distance(u / jaw, v, person.face_width, 1.0)
        self.face = edge(self.face_distance, self.pixel)
        # The head is lit like a ball, a little larger than the face so that hair and ears get light too.
        light_x, light_y = appearance.light
        height = np.sqrt(np.maximum(1.25 - self.across * self.across - v * v, 0))
        facing = np.maximum(0.45 * (light_x * self.across + light_y * v) + 0.55 * height, 0)
        self.light = appearance.ambient + np.float32(1.63 - 1.6 * appearance.ambient) * facing
        self.grain = self.canvas.noise(47, dice.below(NOISES))
        self.strands = self._strands()

    def _span(self, u: float, v: float, half_width: float) -> Span:
        """Turn a feature with the head: points nearer to the viewer move further, and the far side gets
        narrower.
        """
        yaw, width = self.appearance.yaw, self.person.face_width

        def turned(at: float) -> float:
            depth = float(np.sqrt(max(0.0, 1 - 0.8 * (at / width) ** 2 - 0.25 * v * v)))
            return at * float(np.cos(yaw)) + 0.75 * width * depth * float(np.sin(yaw))

        left, right = turned(u - half_width), turned(u + half_width)
        return Span((left + right) / 2, v + self.appearance.pitch, (right - left) / 2)

    def image(self) -> np.ndarray:
        """The finished picture in the light of its scene, uint8 (3, H, W)."""
        rgb = self.canvas.rgb * np.asarray(self.appearance.tint, np.float32)[:, None, None]
        return (np.clip(rgb, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)

    def landmarks(self) -> np.ndarray:
        """Pixels of all ``POINTS``, float32 (P, 2)."""
        slant, person, (left_eye, right_eye) = self.appearance.brow_slant, self.person, self.eyes
        left_brow, right_brow = self.brows
        mouth, nose, corner = self.mouth, self.nose, self.appearance.mouth_corner
        gap, lip = self.appearance.mouth_gap, person.lip_height
        points = {
            "left_brow_outer": (left_brow.u - left_brow.half_width, left_brow.v + slant),
            "left_brow_inner": (left_brow.u + left_brow.half_width, left_brow.v - slant),
            "right_brow_inner": (right_brow.u - right_brow.half_width, right_brow.v - slant),
            "right_brow_outer": (right_brow.u + right_brow.half_width, right_brow.v + slant),
            "left_eye_outer": (left_eye.u - left_eye.half_width, left_eye.v),
            "left_eye": (left_eye.u, left_eye.v),
            "left_eye_inner": (left_eye.u + left_eye.half_width, left_eye.v),
            "right_eye_inner": (right_eye.u - right_eye.half_width, right_eye.v),
            "right_eye": (right_eye.u, right_eye.v),
            "right_eye_outer": (right_eye.u + right_eye.half_width, right_eye.v),
            "left_nostril": (nose.u - nose.half_width, nose.v),
            "nose_tip": (nose.u, nose.v - 0.04),
            "right_nostril": (nose.u + nose.half_width, nose.v),
            "mouth_left": (mouth.u - mouth.half_width, mouth.v - 0.6 * corner),
            "mouth_top": (mouth.u, mouth.v + 0.4 * corner - gap / 2 - 0.8 * lip),
            "mouth_right": (mouth.u + mouth.half_width, mouth.v - 0.6 * corner),
            "mouth_bottom": (mouth.u, mouth.v + 0.4 * corner + gap / 2 + lip),
            "left_cheek": (-person.face_width, 0.0),
            "chin": (0.0, 1.0),
            "right_cheek": (person.face_width, 0.0),
        }
        return self.canvas.to_pixels([points[name] for name in POINTS])

    def add_box(self, name: str, window: Window, coverage: Plane) -> None:
        """Note the box of a shape, hidden pixels of it included, if any pixel of it is in the picture."""
        rows, columns = (np.flatnonzero((coverage >= 0.5).any(axis)) for axis in (1, 0))
        if len(rows):
            top, left = (cut.indices(self.canvas.size)[0] for cut in window.slices)
            box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
            self.boxes.append((name, box))

    def _strands(self) -> Plane:
        """Light and dark strands that run down from the crown, in [-1, 1]."""
        canvas, curl = self.canvas, self.person.curl
        at = self.dice.below(60_000)
        around = canvas.u / (np.abs(canvas.v + 1.35) + np.float32(0.35))
        bend = (0.15 + 0.35 * curl) * canvas.noise(6 + 8 * curl, at)
        waves = np.sin(24 * (around + bend)) * np.float32(fade(24 / 6.28 * self.pixel))
        return 0.6 * waves + 0.6 * canvas.noise(34, at + 5, stretch=2.5)

    def hair_colour(self, window: Window, darken: float = 1.0) -> Plane:
        """Strands in the light, (3, h, w)."""
        tone = (darken * (0.45 + 0.62 * self.light) * (1 + 0.30 * self.strands))[window.slices]
        return np.asarray(self.person.hair, np.float32)[:, None, None] * tone + 0.035 * tone

    def skin_colour(self, window: Window) -> Plane:
        """Skin in the light, with pores, (3, h, w)."""
        tone = (self.light * (1 + 0.035 * self.grain))[window.slices]
        return np.asarray(self.person.skin, np.float32)[:, None, None] * tone
