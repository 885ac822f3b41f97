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
