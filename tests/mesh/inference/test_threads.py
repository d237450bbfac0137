"""What OpenMP is told before torch loads."""

from __future__ import annotations

import os

import pytest

from mesh.inference import threads
from mesh.inference.threads import BRIEF_SPINS, PASSIVE_WAIT_ENVIRONMENT
from tests.support.openmp import forget_waiting


@pytest.fixture
def environment(monkeypatch):
    forget_waiting(monkeypatch)
    return os.environ


def test_threads_sleep_at_once_by_default(environment):
    threads.wait_passively()
    assert {
        name: environment[name] for name in PASSIVE_WAIT_ENVIRONMENT
    } == PASSIVE_WAIT_ENVIRONMENT


def test_a_node_that_chooses_its_threads_lets_them_look_briefly(environment):
    threads.wait_passively()
    threads.wait_briefly()
    assert environment["GOMP_SPINCOUNT"] == BRIEF_SPINS
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"


def test_what_the_operator_set_stays(environment):
    environment["GOMP_SPINCOUNT"] = "77"
    threads.wait_passively()
    threads.wait_briefly()
    assert environment["GOMP_SPINCOUNT"] == "77"
