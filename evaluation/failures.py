"""What it costs that a codec fails on an image: the image, for all codecs, or the codec's point."""

from collections.abc import Sequence

from evaluation.points import Point

FAILURES = (ValueError, RuntimeError, OSError, ImportError)
"""What a codec raises that cannot code an image."""


def most_left_out(num_images: int) -> int:
    """How many of so many images may be left out for the sake of codecs: a tenth, at least one, never all.

    All codecs are compared on the same images, so a codec that fails on one picture of an odd size loses that picture
    for all. One that fails on more would choose the set by what it can do: then it goes, and the images stay.
    """
    return max(0, min(max(1, num_images // 10), num_images - 1))


class Failures:
    """Who failed where, while it is measured.

    Args:
        points: all that are measured.
        num_images: at most so many can be read.
    """

    def __init__(self, points: Sequence[Point], num_images: int):
        self.points, self.num_images = points, num_images
        self.everywhere: dict[int, str] = {}
        self.on_images: dict[int, dict[int, str]] = {}

    def add(self, position: int, index: int, error: BaseException) -> None:
        """Point ``position`` failed on image ``index``; no image is to blame where something is not installed."""
        if isinstance(error, ImportError):
            self.everywhere[position] = str(error)
        else:
            self.on_images.setdefault(position, {})[index] = reason_of(error)

    def out(self, position: int) -> bool:
        """Whether it is known that the point is left out: to go on with it is in vain."""
        failed = len(self.on_images.get(position, ()))
        return position in self.everywhere or failed > most_left_out(self.num_images)

    def settle(self, names: dict[int, str]) -> tuple[dict[int, str], dict[int, str]]:
        """Leave out points, those that fail most often first, until the images of the others are few enough.

        Args:
            names: {index: name} of the images that could be read.

        Returns:
            {position: reason} of the points that are left out, and {index: reason} of the images.
        """
        most, points = most_left_out(len(names)), dict(self.everywhere)
        kept = {p: failed for p, failed in sorted(self.on_images.items()) if p not in points}
        while len(set().union(*kept.values())) > most:
            # Of those that fail equally often the last, so that points of one codec go together.
            worst = max(kept, key=lambda position: (len(kept[position]), position))
            first, reason = min(kept.pop(worst).items())
            points[worst] = (
                f"it fails on too many images: of {len(names)}, {most} may be left out for all codecs together; "
                f"first {names[first]}: {reason}"
            )
        images: dict[int, dict[str, None]] = {}
        for position, failed in kept.items():
            for index, reason in failed.items():
                images.setdefault(index, {})[f"{self.points[position].name}: {reason}"] = None
        return points, {index: "; ".join(reasons) for index, reasons in images.items()}


def reason_of(error: BaseException) -> str:
    """An error in one line; a ``ValueError`` or ``ImportError`` was written for people and stands alone."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: {text}"
