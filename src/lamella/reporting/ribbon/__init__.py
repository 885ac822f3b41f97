"""The architecture ribbon: the network as one band along depth, what each layer gave, and why.

marks = ribbon_marks(graph, plan, profile)      # or a Result; or None for the dense network; with or without curves
text  = svg(marks)

Per layer: an outline (dense channels), a body inside it (kept channels; colour and hatching are bits), a number (when it was
pruned), and under it insets: points lost without half its channels, its share of bytes and MACs (and of latency, where known)
before and now. A brace joins layers whose channels leave together; parallel branches are bands of their own.
"""

from .drawing import marks_at, ribbon_marks

__all__ = ["marks_at", "ribbon_marks"]
