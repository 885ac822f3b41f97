"""The stages over a run directory: what the command line's verbs, and the demo, call.

verbs        train, opened, profiled, compressed, quantized, exported: one function per stage
deciding     the plan: what it needs measured is measured, and its file is weighed before anyone tunes
replanning   a walk that plans anew on the way
controls     a plan beside its controls, over seeds
deployment   files for runtimes, and whether they are worth deploying
levels, slower                an elastic network's levels from targets; those that are slower than a larger one
elastic, serving, shaping     elastic networks made and served; accordions searched
"""

from .standing import Way
from .verbs import (
    compressed,
    compressed_as,
    equalized,
    export_once,
    exported,
    exported_files,
    file_facts,
    opened,
    profiled,
    quantized,
    taken_in,
    train,
    tuning_task,
)

__all__ = [
    "Way",
    "compressed",
    "compressed_as",
    "equalized",
    "export_once",
    "exported",
    "exported_files",
    "file_facts",
    "opened",
    "profiled",
    "quantized",
    "taken_in",
    "train",
    "tuning_task",
]
