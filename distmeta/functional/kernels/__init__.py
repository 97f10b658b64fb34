"""Task-batched layers: a convolution and a batch norm whose parameters differ from task to task, and a max-pool.

``torch.vmap`` of a convolution with a filter a task is a grouped convolution, and of batch norm's second derivative
dozens of passes over memory; torch's max-pool wants another memory layout than these two. Here the same mathematics is
a few calls that take all tasks of a chunk at once, in one of two forms:

- ``native``: C++ for the CPU (``kernels.cpp``), compiled once a host by the C++ compiler that is found there;
- ``products``: patches and batched matrix products of torch's own, for any device.

Tensors have a leading task dimension and their channels last: activations (T, N, H, W, C), filters (T, kH, kW, I, O). A
tensor that all tasks share has T = 1.
"""

from __future__ import annotations

from typing import Literal

Form = Literal["native", "products"]
"""Which implementation computes a task-batched layer."""
