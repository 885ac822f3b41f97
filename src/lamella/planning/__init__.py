"""A planner maps measured curves and a budget to an ordered list of steps.

    plan(profile, planner="threshold", factor=0.985)                 every group's largest rate that holds, best score first
    plan(profile, Budget(params="25%"), planner="uniform")           one ratio for all, the smallest that keeps the budget
    plan(profile, Budget(bytes="10%"), planner="knapsack")           widths and bits of every layer weighed together, with proof
    reorder(plan, profile, "in_order")                               the same steps, first layer first
    compare(a, b), pareto(profile, "bytes"), significance(profile)   what differs; the front; what each layer is worth

`PLANNERS` maps a name to a function (Ask, **options) -> Draft; `ORDERS` maps a name to the key choices are sorted by. Planning
is arithmetic on records: no torch, no data. What must be measured (a candidate's score, a layer's latency) is handed in.
"""

from .asking import Ask, Draft, Predictor
from .blocking import check_budget
from .curves import without_bits
from .editing import editable, edited
from .fronts import FrontPoint, compare, flat, front_csv, front_of, front_record, pareto
from .order import ORDERS, Choice, greedy_measurements, reorder
from .plans import ADDED_UP, PLANNERS, plan
from .replanning import replan, with_residue
from .worth import depth_test, sensitivity, significance

__all__ = [
    "ADDED_UP",
    "ORDERS",
    "PLANNERS",
    "Ask",
    "Choice",
    "Draft",
    "FrontPoint",
    "Predictor",
    "check_budget",
    "compare",
    "depth_test",
    "editable",
    "edited",
    "flat",
    "front_csv",
    "front_of",
    "front_record",
    "greedy_measurements",
    "pareto",
    "plan",
    "reorder",
    "replan",
    "sensitivity",
    "significance",
    "with_residue",
    "without_bits",
]
