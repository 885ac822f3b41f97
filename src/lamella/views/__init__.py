"""Records as tables for the terminal: functions from a record to something `rich` prints. No torch here.

graph_view(reach(graph)), profile_view(profile), plan_view(plan, graph), result_view(result), table_view(table, files)
"""

from .accordions import accordion_view
from .files import files_view, formats_view, published_view, table_view
from .levels import family_view, serving_view
from .runs import front_view, graph_view, plan_view, profile_view, result_view, trials_view, worths
from .showing import show

__all__ = [
    "accordion_view",
    "family_view",
    "files_view",
    "formats_view",
    "front_view",
    "graph_view",
    "plan_view",
    "profile_view",
    "published_view",
    "result_view",
    "serving_view",
    "show",
    "table_view",
    "trials_view",
    "worths",
]
