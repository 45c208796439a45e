"""Draws portraits with all their labels, from nothing but an index.

``parameters`` decides what a portrait shows, ``canvas`` knows how to paint, ``scenes`` paints backgrounds,
``head`` places the parts that ``skin_and_hair``, ``features`` and ``wear`` paint, and ``portrait`` puts all
of it together.
"""

from datamodules.drawing.portrait import draw, labels

__all__ = ["draw", "labels"]
