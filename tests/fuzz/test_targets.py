"""Every decoder of strangers' bytes raises its own error or nothing, and allocates in bounds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.records import EPOCH_KINDS
from tests.fuzz.__main__ import keep_finding
from tests.fuzz.mutate import mutate
from tests.fuzz.target import Broken, Target
from tests.fuzz.targets import TARGETS

EXAMPLES = 200
FEW_EXAMPLES = 20
SLOW = ("http_", "manifest", "chain_nodes", "metadata", "receipt_checked")
"""Decoders that take milliseconds get fewer inputs here; the command gives all the same number."""
TRACED_EXAMPLES = 20
MAX_SEED = 2**32 - 1


@pytest.mark.parametrize("name", TARGETS)
def test_what_our_encoders_write_is_taken_and_written_the_same_way(name: str) -> None:
    target = TARGETS[name]
    assert target.seeds
    for raw in target.seeds:
        assert target.check(raw), target.find_refusal(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_decoders_own_error_is_raised(name: str) -> None:
    target = TARGETS[name]
    mutated = st.builds(
        lambda raw, seed: breed(target, raw, Random(seed)),
        st.sampled_from(target.seeds),
        st.integers(0, MAX_SEED),
    )

    @settings(
        max_examples=choose_num_examples(name),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated | mutated | mutated | st.binary(max_size=min(target.max_size, 300)))
    def check(raw: bytes) -> None:
        target.check(raw)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_more_memory_than_its_size_is_worth(name: str) -> None:
    target, random = TARGETS[name], Random(name)
    for raw in target.seeds[:3]:
        # What is imported, compiled and cached once is no input's.
        target.check(raw)
    tracemalloc.start()
    try:
        for _ in range(min(TRACED_EXAMPLES, choose_num_examples(name))):
            check_memory(target, breed(target, random.choice(target.seeds), random))
    finally:
        tracemalloc.stop()


def choose_num_examples(name: str) -> int:
    return FEW_EXAMPLES if name.startswith(SLOW) else EXAMPLES


def check_memory(target: Target, raw: bytes) -> None:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    target.check(raw)
    _, peak = tracemalloc.get_traced_memory()
    allowed = target.compute_max_memory(len(raw))
    assert peak - before <= allowed, f"{len(raw)} bytes took {peak - before}: {raw.hex()}"


def breed(target: Target, raw: bytes, random: Random) -> bytes:
    return mutate(raw, random, max_size=target.max_size, others=target.seeds)


def test_every_kind_of_record_has_a_row() -> None:
    assert {f"record_{kind.name.lower()}" for kind in EPOCH_KINDS} <= TARGETS.keys()


def test_an_encoding_that_is_not_the_only_one_is_noticed() -> None:
    lax = Target("lax", lambda raw: raw.strip(), (), lambda: [b"a"], encode=bytes)
    with pytest.raises(Broken, match="2061 decodes, and is 61 again"):
        lax.check(b" a")


def test_sets_mean_the_same_in_whatever_order_they_are_printed() -> None:
    # Equal sets whose texts differ: 0 and 8 collide in a table of eight places.
    first, second = frozenset([0, 8]), frozenset([8, 0])
    assert repr(first) != repr(second)
    values = iter([first, second])
    lax = Target(
        "set", lambda _raw: next(values), (), lambda: [b"a"], encode=repr_bytes, is_canonical=False
    )
    assert lax.check(b"a")


def repr_bytes(value: object) -> bytes:
    return repr(value).encode()


def test_an_input_that_raises_is_kept(tmp_path: Path) -> None:
    kept = keep_finding(b"raw", tmp_path / "envelope-")
    assert kept.name.startswith("envelope-crash-")
    assert kept.read_bytes() == b"raw"


def test_an_error_of_another_type_comes_through() -> None:
    careless = Target("careless", lambda raw: raw[0], (ValueError,), lambda: [b"a"])
    with pytest.raises(IndexError):
        careless.check(b"")
