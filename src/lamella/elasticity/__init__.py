"""Elastic networks: nested sub-networks in one set of weights, each whole, switched at run time.

    net = elasticize(model, ROUNDS, task, method="sandwich")       # levels core, level1, level2, full
    net.set_active_subnet("core"); net(images)                     # microseconds; no weight is copied
    small = net.extract("core")                                    # a plain narrowed module
    publish(net, task, "runs/r20/elastic")                         # ONNX files per level over one file of weights
    save_elastic("runs/r20", net); net = load_elastic("runs/r20", make_model)

`levels` says which widths, `sorting` brings the important channels to the front so that every level is a prefix, `networks` holds
the views, `methods` trains them, `teaching` says who teaches; `lamella.serving` chooses a level while requests run.
"""

from .building import elasticize, nest
from .keeping import load_elastic, save_elastic
from .levels import FULL, ROUNDS, Settings, make_levels, widths_at
from .methods import METHODS
from .networks import ElasticModel
from .publishing import publish
from .requests import TUNING, How, check_request
from .teaching import IN_PLACE, Teaching

__all__ = [
    "FULL",
    "IN_PLACE",
    "METHODS",
    "ROUNDS",
    "TUNING",
    "ElasticModel",
    "How",
    "Settings",
    "Teaching",
    "check_request",
    "elasticize",
    "load_elastic",
    "make_levels",
    "nest",
    "publish",
    "save_elastic",
    "widths_at",
]
