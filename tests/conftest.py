"""One thread per test process: tiny networks lose more to waiting threads than they gain."""

import torch

torch.set_num_threads(1)
