"""Re-run a network only from what changed on.

    program = Program(model, inputs)                      # exported, batch norm folded, channels last
    state   = program.start(inputs)                       # one batch, nothing computed yet
    branch  = program.branch(state, changed_names)        # runs the dense network up to the change, and keeps what is needed there
    outputs = program.outputs(branch, program.prepared(Change({"conv1.weight": narrowed})))

A variant of a layer shares everything before that layer with the dense network, and all variants of a layer share its input: a
batch is walked once, from the first layer to the last, and every variant runs from the walk's position on. `program` turns a model
into a list of operators, `folding` absorbs batch norms into the layers before them, `watching` notes the statistics of their batches
instead, `running` walks and branches.
"""

from .program import Change, Program
from .running import Branch, State, Variant
from .watching import watch

__all__ = ["Branch", "Change", "Program", "State", "Variant", "watch"]
