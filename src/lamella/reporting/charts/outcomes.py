"""Charts of what became of a network: the walk through a plan, the front of a budget, an elastic family, an accordion.

walk_spec(result.history); front_spec(front, plan); family_spec(family); widths_spec(accordion) ...
"""
