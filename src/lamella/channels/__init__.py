"""Channel ids through the exported graph: which elements of which tensors are the same channel.

    flow = Walk(names, shapes, rule_of).run(exported_graph, inputs)

Every axis of every parameter is born with an id per index. A value carries *planes*: integer tensors of its own shape that hold
the id each element belongs to, stretched (stride 0) over the axes that hold no channels. The graph is run once on planes:

    movement     view, permute, cat ... run as they stand on the planes
    pieces       what cuts an axis apart makes parts; what picks by position fixes
    pointwise    ties the ids that meet
    contraction  a conv or linear ties the ids that arrive to its weight's input axis, and makes the ids of its output axis
    mixing       pooling keeps the channel axis; sums over channels fix them
    anything unknown fixes the ids it touches, with the reason

What comes out is a `Flow`: ties (pairs of ids), fixed ids with reasons, parts (ids that must leave in equal numbers), and what
every operator read and made. `grouping` turns it into groups. `flow` holds the values, `walk` the run, `rules` the table.
"""

from .flow import FIXED, Call, Flow, Literal, Use, Value, compact
from .places import inside, module_path, mutates_a_view, operator_name, place, source_line
from .rules import RULES, rule_of
from .walk import Walk

__all__ = [
    "FIXED",
    "RULES",
    "Call",
    "Flow",
    "Literal",
    "Use",
    "Value",
    "Walk",
    "compact",
    "inside",
    "module_path",
    "mutates_a_view",
    "operator_name",
    "place",
    "rule_of",
    "source_line",
]
