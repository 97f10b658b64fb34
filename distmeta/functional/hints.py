"""What torch's messages mean for a network that is meta-trained, and what to do."""

from __future__ import annotations

import re

_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"derivative for '?\w*embedding_bag\w*'? is not implemented",
        "nn.EmbeddingBag has no second derivative; use nn.Embedding and a mean or sum over positions, or a first-order "
        "method (algorithm.name=fomaml or reptile)",
    ),
    (
        r"derivative for '?[\w:]+'? is not implemented|once_differentiable|not (?:twice|double) differentiable"
        r"|Double backward|double-backward|trying to differentiate twice",
        "an operation of the network has no second derivative, which this algorithm needs; use another operation, or a "
        "first-order method (algorithm.name=fomaml or reptile)",
    ),
    (
        r"[Ss]parse",
        "the network makes sparse gradients, which are not supported; leave out sparse=True",
    ),
    (
        r"Can't call numpy\(\)|Cannot access data pointer of Tensor|\.numpy\(\) is not supported|to a numpy",
        "the network leaves torch for NumPy, through which there is no derivative; compute with torch's functions",
    ),
    (
        r"got (Long|Int|Short|Byte|Char|Bool) and Float",
        "the examples are whole numbers, and the network computes with floating-point ones: let tasks give x as "
        "floating-point numbers (x.astype(np.float32)); whole numbers for a network that takes them go by name",
    ),
    (
        r"must have the same dtype|expected scalar type|same dtype|expected .* dtype|[Dd]ata ?type",
        "parameters and examples are float32 here: let forward convert nothing to a fixed type (.double(), .half(), "
        "torch.float64), or convert back what it has converted",
    ),
    (
        r"change requires_grad flags of leaf",
        "set requires_grad when the network is made, not in forward",
    ),
    (
        r"'(Parameter|Tensor)' object has no attribute",
        "parameters are given as plain tensors, without the attributes that a module sets on its own; keep them as "
        "attributes of the layer",
    ),
    (
        r"[Cc]omplex",
        "complex parameters are not supported; keep real and imaginary parts as two real parameters",
    ),
    (
        r"on the same device|Expected all tensors to be on",
        "a tensor of the network stays on another device; register it as a buffer or a parameter",
    ),
    (
        r"calling \.item\(\)|data-dependent control flow|aten::_local_scalar_dense",
        "the network looks at numbers in Python (.item(), a branch on data); use torch.where or the like",
    ),
)


def hint(error: BaseException) -> str:
    """What to do about an exception of torch's that a network raised; empty where nothing is known of it.

    >>> hint(RuntimeError("mat1 and mat2 must have the same dtype, but got Double and Float"))[:48]
    'parameters and examples are float32 here: let fo'
    >>> hint(RuntimeError("mat1 and mat2 must have the same dtype, but got Long and Float"))[:30]
    'the examples are whole numbers'
    >>> hint(RuntimeError("no such thing"))
    ''
    """
    text = f"{type(error).__name__}: {error}"
    return next((advice for pattern, advice in _HINTS if re.search(pattern, text)), "")
