"""How codecs and heads look, the same in every figure and table of every report.

Colours come in pairs, for white and for black paper, and every codec has a marker of its own, so that nobody depends on
telling colours apart.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Colour and marker of a codec.

    Attributes:
        light: colour on white.
        dark: colour on black.
        marker: by the name that Plotly uses.
    """

    light: str
    dark: str
    marker: str

    @property
    def matplotlib_marker(self) -> str:
        """The same marker by matplotlib's name."""
        return MARKERS[self.marker][0]

    @property
    def path(self) -> str:
        """The same marker as an SVG path around (0, 0), about 10 wide."""
        return MARKERS[self.marker][1]


MARKERS = {
    "circle": ("o", "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z"),
    "square": ("s", "M-3.6,-3.6h7.2v7.2h-7.2z"),
    "diamond": ("D", "M0,-5L5,0L0,5L-5,0z"),
    "triangle-up": ("^", "M0,-5L4.8,3.4h-9.6z"),
    "triangle-down": ("v", "M0,5L4.8,-3.4h-9.6z"),
    "triangle-left": ("<", "M-5,0L3.4,-4.8v9.6z"),
    "triangle-right": (">", "M5,0L-3.4,-4.8v9.6z"),
    "cross": ("P", "M-1.6,-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z"),
    "x": ("X", "M-4.5,-2.3L-2.3,-4.5L0,-2.2L2.3,-4.5L4.5,-2.3L2.2,0L4.5,2.3L2.3,4.5L0,2.2L-2.3,4.5L-4.5,2.3L-2.2,0z"),
    "star": ("*", "M0,-5.5L1.3,-1.8L5.2,-1.7L2.1,0.7L3.2,4.4L0,2.2L-3.2,4.4L-2.1,0.7L-5.2,-1.7L-1.3,-1.8z"),
    "pentagon": ("p", "M0,-4.8L4.6,-1.5L2.8,3.9L-2.8,3.9L-4.6,-1.5z"),
    "hexagon": ("h", "M0,-4.8L4.2,-2.4V2.4L0,4.8L-4.2,2.4V-2.4z"),
}  # fmt: skip

FIXED = {
    "jpeg": Look("#aa3f95", "#dd8fce", "square"),
    "jpeg_default": Look("#aa3f95", "#dd8fce", "hexagon"),
    "webp": Look("#117733", "#54bd78", "triangle-up"),
    "webp_default": Look("#117733", "#54bd78", "hexagon"),
    "jpeg2000": Look("#8a8420", "#c9c258", "diamond"),
    "avif": Look("#2a93c8", "#7cc8ef", "triangle-down"),
    "avif_fast": Look("#2a93c8", "#7cc8ef", "hexagon"),
    "jpegxl": Look("#2b9384", "#63d0c0", "pentagon"),
    "hevc": Look("#3f2f9c", "#a397f2", "cross"),
    "vvc": Look("#26282d", "#e6e6e8", "x"),
    "vvc_fast": Look("#26282d", "#e6e6e8", "hexagon"),
}
"""Standard codecs look alike in every report."""

UNCOMPRESSED = Look("#767676", "#9a9a9a", "circle")
"""Uncompressed pictures, whatever they are called."""

OTHERS = (
    Look("#d1550b", "#ff9350", "circle"),
    Look("#0a68b4", "#58b0f5", "star"),
    Look("#b8860b", "#f2c14b", "pentagon"),
    Look("#8f1d52", "#e2709f", "triangle-right"),
    Look("#c4525f", "#f5a0a8", "hexagon"),
    Look("#7a4a1e", "#cf9a66", "triangle-left"),
    Look("#5d7a00", "#a9cf3f", "square"),
    Look("#6b3fa0", "#c3a0ec", "diamond"),
)
"""All other codecs, in the order in which they come; after the last it begins again."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Line styles by the names that Plotly uses: the first for heads that were trained with the codec, then others."""

MATPLOTLIB_DASHES = {
    "solid": "-",
    "dash": (0, (5, 3)),
    "dot": (0, (1.2, 1.8)),
    "dashdot": (0, (6, 2, 1.2, 2)),
    "longdash": (0, (9, 3)),
    "longdashdot": (0, (9, 2, 1.2, 2)),
}

SVG_DASHES = {
    "solid": "none",
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "8 3 2 3",
    "longdash": "12 4",
    "longdashdot": "12 3 2 3",
}


def looks(codecs: Iterable[str], uncompressed: Collection[str] = ()) -> dict[str, Look]:
    """A look for each codec, in the order given; ``uncompressed`` names those that send the picture as it is."""
    fixed = FIXED | dict.fromkeys(uncompressed, UNCOMPRESSED)
    found: dict[str, Look] = {}
    for codec in dict.fromkeys(codecs):
        others = sum(name not in fixed for name in found)
        found[codec] = fixed.get(codec) or OTHERS[others % len(OTHERS)]
    return found


def dashes(heads: Iterable[str | None], own: str = "own") -> dict[str | None, str]:
    """A line style for each source of heads; ``own`` and ``None`` are solid, the others differ from them."""
    found: dict[str | None, str] = {}
    unseen = 0
    for head in dict.fromkeys(heads):
        if head in (own, None):
            found[head] = DASHES[0]
        else:
            found[head] = DASHES[1 + unseen % (len(DASHES) - 1)]
            unseen += 1
    return found
