"""An elastic network at work: levels as ONNX Runtime sessions, and what chooses between them. No torch here.

    with open_family("runs/r20/elastic") as family:         # a session per level, over one file of weights
        family.set_active_subnet("core")                    # a pointer changes
        (logits_NC,) = family.run(images_NCHW)

        governor = Governor(family.levels, family.set_active_subnet, Policy(load=0.7))
        with governor.request():                            # in any thread
            family.run(images_NCHW)

`days` runs a day of changing load through real sessions, with and without a governor.
"""

from .days import Clock, Day, Served, day_of, serve
from .families import OnnxFamily, open_family
from .governing import Choice, Governor, Policy, choose

__all__ = [
    "Choice",
    "Clock",
    "Day",
    "Governor",
    "OnnxFamily",
    "Policy",
    "Served",
    "choose",
    "day_of",
    "open_family",
    "serve",
]
