"""What a service is told as it starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServeSettings:
    """Limits and the like; all of them are plain values.

    Attributes:
        token: that requests have to bring; ``None``: anybody may ask.
        batch: requests that are computed together at most; 1 computes each by itself.
        wait: seconds that a request waits for others to be computed with.
        models: adapted models that are kept at most; the one that was not used for longest goes first.
        kept_bytes: of all adapted models.
        ttl: seconds after its last use after which a model may be forgotten.
        body_bytes: of a request.
        examples: of a request, at most.
        steps: inner steps of a request, at most.
        rate: requests a second of one client that a replica answers; 0: no limit.
        patience: seconds in which a request's body has to arrive.
    """

    token: str | None
    batch: int = 32
    wait: float = 0.004
    models: int = 10_000
    kept_bytes: int = 2 * 10**9
    ttl: float = 3600.0
    body_bytes: int = 32 * 2**20
    examples: int = 5_000
    steps: int = 100
    rate: float = 0.0
    patience: float = 20.0
