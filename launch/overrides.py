"""Texts in Hydra's override grammar: values of any content, and names for folders that need no quotes in it."""

import hashlib
import os
import re
from collections.abc import Sequence
from urllib.parse import quote


def quoted(value: object) -> str:
    """A text, a path say, as a value in which nothing means anything to Hydra: ``run_dir=`` + this.

    >>> quoted("runs/it's = {odd}")
    "'runs/it\\\\'s = {odd}'"
    """
    # Backslashes stand for themselves, but for those before ${ or a quote, its own one too.
    text = re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", str(value))
    text = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{text}'"


def point_name(overrides: Sequence[str]) -> str:
    """The folder of a sweep's point: other overrides have another, whatever their order.

    >>> point_name(["data.root=/d/a_b", "lmbda=0.001"])
    'lmbda-0.001+data.root-%2Fd%2Fa_b'

    Letters, digits and ``_.+-%`` alone, which Hydra and shells take without quotes: ``resume=`` and ``codecs=[...]`` of
    such a folder are typed as they are. Short keys come first: what is swept (lmbda, seed) is still there where a long
    name is cut.
    """
    # In keys - is escaped, so that the first one ends the key; + in both.
    pieces = sorted((text.partition("=") for text in overrides), key=lambda piece: (len(piece[0]), piece))
    name = "+".join(
        _escaped(key).replace("-", "%2D") + ("-" + _escaped(value) if equals else "")
        for key, equals, value in pieces
    )
    if len(name) <= 200:
        return name or "default"
    # File systems stop at 255 bytes.
    return f"{name[:150]}...{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _escaped(text: str) -> str:
    # File names need not be UTF-8.
    return quote(os.fsencode(text), safe="").replace("~", "%7E")
