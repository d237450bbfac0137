"""Metadata in which few bytes stand for endless values costs an attempt, not the process."""

from __future__ import annotations

from typing import Any

import pytest
from scalecodec.base import ScaleBytes

from devchain.metadata import Array, Composite, Field, Sequence, Tuple
from subnet.chain.chain_session import ChainSession
from subnet.chain.codec import MAX_FREE_STEPS, ChainRuntime, load_runtime
from subnet.errors import ChainUnavailable
from tests.support.small_metadata import encode_metadata, make_small_metadata, number

A_VECTOR_OF_THE_MOST = (2**32 - 2).to_bytes(4, "little")
"""The length 2**30 - 1 as a compact number of four bytes."""


def read(runtime: ChainRuntime, raw: bytes, *, kind: int) -> Any:
    data = ScaleBytes(bytearray(raw))
    value = runtime.types.create_scale_object(f"scale_info::{kind}", data)
    return value.decode()


def load(*definitions: Any) -> ChainRuntime:
    return load_runtime(bytes(32), encode_metadata(number(*definitions)))


@pytest.mark.parametrize(
    ("definitions", "raw"),
    [
        ([Sequence(1), Tuple(())], A_VECTOR_OF_THE_MOST),
        ([Array(2**32 - 1, 1), Composite(())], b""),
        ([*(Tuple((place + 1, place + 1)) for place in range(40)), Tuple(())], b""),
    ],
    ids=["vector of nothing", "array of nothing", "pairs of pairs"],
)
def test_few_bytes_stand_for_few_values(definitions: list[Any], raw: bytes) -> None:
    with pytest.raises(ValueError, match="stand for more than"):
        read(load(*definitions), raw, kind=0)


def test_a_vector_of_nothing_may_be_short() -> None:
    assert read(load(Sequence(1), Tuple(())), b"\x08", kind=0) == [(), ()]


def test_as_many_values_as_bytes_are_read() -> None:
    count = 2 * MAX_FREE_STEPS
    length = (count << 2 | 2).to_bytes(4, "little")
    rows = load(Sequence(1), Composite((Field(None, 2),)), Tuple((3,)), Array(2, 4), Sequence(0))
    assert len(read(rows, length + bytes(2 * count), kind=0)) == count


@pytest.mark.parametrize(
    ("definition", "raw"),
    [(Composite((Field("itself", 0),)), b""), (Sequence(0), b"\x04" * 3000)],
    ids=["a record that holds itself", "a vector nested too deeply"],
)
def test_a_value_without_end_is_an_outage(definition: Any, raw: bytes) -> None:
    runtime, interface = load(definition), object()
    session = ChainSession(interface, url="ws://x", runtime=runtime)  # type: ignore[arg-type]
    with pytest.raises(ChainUnavailable, match="cannot be read"):
        session.run(lambda session: read(session.runtime, raw, kind=0))


def test_a_runtime_knows_no_types_of_the_one_before() -> None:
    first = load_runtime(bytes(32), make_small_metadata())
    assert first.types.get_decoder_class("p::Row") is not None
    assert load(Tuple(())).types.get_decoder_class("p::Row") is None


def test_small_metadata_is_a_whole_runtime() -> None:
    runtime = load_runtime(bytes(32), make_small_metadata())
    assert runtime.list_calls("P") == ("None", "Some", "Both")
    assert runtime.has_storage("P", "Rows")
    assert read(runtime, b"\x04" + bytes(20) + b"\x04", kind=6) == [
        {"owner": "0x" + "00" * 20, "stake": 1}
    ]
    assert read(runtime, b"\x04" + bytes(21), kind=13) == [("0x" + "00" * 20, 0)]
