"""What a person types, as values."""

from typing import Any


def parsed(text: str) -> Any:
    """An option's text as an int, a float, a tuple of them ('32,64,128'), or itself.

    >>> parsed("32,64,128"), parsed("0.5"), parsed("B")
    ((32, 64, 128), 0.5, 'B')
    """
    if "," in text:
        return tuple(parsed(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
