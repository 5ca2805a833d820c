import os
import signal

# The tests' tensors are tiny: threads would only wait for each other. Tests of threading ask for more (`threads`).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from fastgan.ops import _engine

# And torch's modules would run them all, which tests nothing. Processes that tests start follow the rule.
_LEAST_SAVED, _engine.LEAST_SAVED = _engine.LEAST_SAVED, 0

# A shell that starts the suite in the background has it ignore Ctrl-C, and so the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def threads():
    """Sets torch's thread count for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def engine(monkeypatch):
    """Sets FASTGAN_ENGINE's choice for one test."""
    return lambda mode: monkeypatch.setattr(_engine, "mode", mode)


@pytest.fixture
def rule_of_sizes(monkeypatch):
    """What users have: torch's modules run what is too small to gain by fusing."""
    monkeypatch.setattr(_engine, "LEAST_SAVED", _LEAST_SAVED)
