"""Tests of the CUDA path; ``DISTMETA_TEST_DEVICE=cpu`` runs the same bodies on the CPU."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("DISTMETA_TEST_DEVICE", "cuda")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests compute."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; DISTMETA_TEST_DEVICE=cpu runs these tests on the CPU")
    return torch.device(DEVICE)


@pytest.fixture(scope="session")
def cuda(device: torch.device) -> torch.device:
    """For what only CUDA has."""
    if device.type != "cuda":
        pytest.skip("about CUDA alone")
    return device
