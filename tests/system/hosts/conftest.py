from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cluster_hosts import Hosts, refusal
from cluster_runs import BASES, Reference, settings
from integration_helpers import logged, parameters, train


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reference]:
    """The same run in this process, computed once."""
    known: dict[tuple[str, int], Reference] = {}

    def in_process(family: str, steps: int) -> Reference:
        if (family, steps) not in known:
            folder = tmp_path_factory.mktemp("in-process") / family
            result = train(folder, BASES[family], *settings(BASES[family], f"run.steps={steps}"))
            known[family, steps] = Reference(result, logged(folder), parameters(folder, steps))
        return known[family, steps]

    return in_process


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The hosts of a module; each test says which it wants with :meth:`Hosts.keep`."""
    reason = refusal()
    if reason is not None:
        pytest.skip(reason)
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts
