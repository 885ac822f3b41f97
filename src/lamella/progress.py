"""How a long verb tells where it is: a function called with the stage, how many items are done, how many there are, and a note.

def profile(..., progress: Progress = silent): ...
progress("profile", 12, 81, "layer2.0.conv1 at 0.5: 97.2 %")
"""

from typing import Protocol


class Progress(Protocol):
    """Called once with done = 0 when a stage starts, and after every item."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Say nothing."""
