"""A file with those that hold its weights, made beside and moved into place together: all of them, or none.

write_together("model.onnx", write)     # write(scratch / "model.onnx") may leave model.onnx.data beside it there
"""

from collections.abc import Callable
from pathlib import Path

from ..making import folder
from ..runs import told_as, write_through


def write_together(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file of this name in a scratch folder beside `path`, with others beside it; then move all into place.

    Until then nothing that lay there is touched. Errors raised there name `path`.
    """
    path = Path(path)

    def fill(temporary: Path) -> None:
        with folder(beside=path) as scratch:
            made = scratch / path.name
            with told_as(made, path):
                write(made)
            sides = [each for each in scratch.iterdir() if each != made]
            if sides:
                path.unlink(missing_ok=True)  # killed from here on, no file is left beside the weights of another
            for side in sides:
                write_through(path.with_name(side.name), side.replace)
            made.replace(temporary)

    write_through(path, fill)
