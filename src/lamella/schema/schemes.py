"""How files hold the layers that multiply: the schemes of `lamella quantize`, by name."""

from dataclasses import dataclass
from typing import Literal

# Of linear layers: as the rest, 4-bit blocks, int8 with inputs ranged at every call.
LinearForm = Literal["", "blocks", "dynamic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """`calibrated`: convolutions and all that is not linear in integers, with ranges seen on calibration data; else in float. `linear`: the
    form of linear layers.
    """

    calibrated: bool
    linear: LinearForm = ""


SCHEMES: dict[str, Scheme] = {
    "static": Scheme(calibrated=True),
    "static-nbits-fc": Scheme(calibrated=True, linear="blocks"),
    "dynamic-fc": Scheme(calibrated=False, linear="dynamic"),
    "nbits-fc": Scheme(calibrated=False, linear="blocks"),
}


def variant(scheme: str) -> str:
    """What the file that a scheme writes is called among a run's files.

    >>> variant("static"), variant("nbits-fc")
    ('int8', 'nbits-fc')
    """
    return "int8" if scheme == "static" else scheme


def file_key(scheme: str) -> str:
    """The name in `FILES` of the file that a scheme writes.

    >>> file_key("static"), file_key("nbits-fc")
    ('int8_onnx', 'nbits-fc_onnx')
    """
    return f"{variant(scheme)}_onnx"


def option(scheme: str) -> str:
    """What `lamella quantize` is told for a scheme, after a space; nothing for the one that it takes by itself.

    >>> option("static"), option("nbits-fc")
    ('', ' --scheme nbits-fc')
    """
    return "" if scheme == "static" else f" --scheme {scheme}"
