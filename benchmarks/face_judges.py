"""Judges of faces that no part of ours has learned from: dlib's 68 landmarks and its identities.

For research alone: the landmarks were learned on iBUG 300-W. ``make research`` installs both packages.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)


@dataclass(frozen=True)
class Seen:
    """What dlib sees in one picture.

    Attributes:
        points: landmarks, (68, 2), in pixels.
        identity: (128,); of one person where two differ by less than about 0.6.
    """

    points: np.ndarray
    identity: np.ndarray


class FaceJudges:
    """Finds faces in originals, and looks at the same place of decoded pictures: no decode evades by hiding its face.

    Raises:
        SystemExit: dlib or its models are not installed.
    """

    def __init__(self) -> None:
        self.dlib, models = _installed()
        self.finds = self.dlib.get_frontal_face_detector()
        self.landmarks = self.dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))
        self.recognises = self.dlib.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def rectangle(self, pixels: np.ndarray) -> tuple[int, int, int, int] | None:
        """Left, top, right, bottom of the largest face in a picture, uint8 (H, W, 3); ``None``: there is none."""
        for enlarged in (0, 1):
            if found := self.finds(pixels, enlarged):
                best = max(found, key=lambda face: face.area())
                return best.left(), best.top(), best.right(), best.bottom()
        return None

    def look(self, pixels: np.ndarray, rectangle: tuple[int, int, int, int]) -> Seen:
        """The face in a rectangle of a picture, uint8 (H, W, 3)."""
        shape = self.landmarks(pixels, self.dlib.rectangle(*rectangle))
        points = np.array([(shape.part(i).x, shape.part(i).y) for i in range(68)], np.float64)
        return Seen(points, np.array(self.recognises.compute_face_descriptor(pixels, shape)))


def nme(seen: Seen, original: Seen) -> float:
    """Mean distance of landmarks from the original's, in percent of its distance between the eyes' centres."""
    eyes = original.points[LEFT_EYE].mean(0) - original.points[RIGHT_EYE].mean(0)
    return float(100 * np.linalg.norm(seen.points - original.points, axis=1).mean() / np.linalg.norm(eyes))


def nearest(identity: np.ndarray, gallery: np.ndarray) -> int:
    """Which of the gallery's identities (N, 128) is nearest."""
    return int(np.linalg.norm(gallery - identity, axis=1).argmin())


def _installed() -> tuple[ModuleType, Path]:
    # The package of models is not imported: it asks for one that newer Pythons do not bring.
    spec = find_spec("face_recognition_models")
    if find_spec("dlib") is None or spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "the judges are not installed: run `make research` (packages dlib-bin, face-recognition-models)"
        )
    import dlib

    return dlib, Path(spec.submodule_search_locations[0]) / "models"
