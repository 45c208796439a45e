"""Counts in words."""


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "point"), counted(2, "point"), counted(0, "batch"), counted(1200, "process")
    ('1 point', '2 points', '0 batches', '1200 processes')
    """
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number} {noun}{ending}"
