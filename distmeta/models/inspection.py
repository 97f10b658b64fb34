"""What a module's structure tells: tied names, the head, dropout layers."""

from __future__ import annotations

from torch import nn

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def aliases(module: nn.Module) -> dict[str, str]:
    """Each further name of a parameter -> its first name."""
    first: dict[int, str] = {}
    others = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            others[name] = first[id(parameter)]
    return others


def head(module: nn.Module) -> list[str]:
    """Names, under its own path, of the parameters of the module's last part."""
    part = getattr(module, "head", None)
    if isinstance(part, nn.Module):
        return [f"head.{name}" for name, _ in part.named_parameters()]
    trainable = [
        (path, layer)
        for path, layer in module.named_modules()
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    ]
    if not trainable or not isinstance(trainable[-1][1], nn.Linear):
        return []
    path, layer = trainable[-1]
    return [f"{path}.{name}" if path else name for name, _ in layer.named_parameters()]


def drops(layer: nn.Module) -> bool:
    """Whether this layer, as its training flag stands, has something to drop."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.training and layer.dropout > 0
    return isinstance(layer, _DROPOUTS) and layer.training and layer.p > 0
