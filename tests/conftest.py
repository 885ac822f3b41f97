"""One thread per test process: tiny networks lose more to waiting threads than they gain."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# A busy machine is no reason to fail: examples that are slow to draw say nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
