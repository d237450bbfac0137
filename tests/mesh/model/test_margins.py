"""What a manifest says about calibration is parsed strictly, and margins below ten are refused."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import MarginTooSmall, ModelError, NotCalibrated
from mesh.model.manifest import decode_manifest, encode_canonical_json
from mesh.model.margins import (
    MAX_DISTANCE,
    check_margins,
    describe_calibration,
    parse_calibration,
)
from tests.support.calibrations import make_calibration

LAYERS = 3
TAU = 10**12 >> 12


def test_a_calibration_survives_the_wire():
    calibration = make_calibration(LAYERS, scales=(-64, 64, 0, 7), honest=(0, 1, 2, MAX_DISTANCE))
    written = json.loads(json.dumps(describe_calibration(calibration)))
    assert parse_calibration(written, LAYERS) == calibration


MALFORMED = [
    ("scales", [0, 0, 0]),
    ("scales", [0, 0, 0, 65]),
    ("scales", [0, 0, 0, -65]),
    ("scales", [0, 0, 0, True]),
    ("scales", [0, 0, 0, 1.0]),
    ("scales", [0, 0, 0, "1"]),
    ("scales", {"0": 0}),
    ("scales", None),
    ("honest", [1, 1, 1, -1]),
    ("honest", [1, 1, 1, MAX_DISTANCE + 1]),
    ("honest", [1, 1, 1, 1, 1]),
    ("cheats", {}),
    ("cheats", []),
    ("cheats", {"int8": [1, 1, 1]}),
    ("cheats", {"": [1, 1, 1, 1]}),
    ("cheats", {"i" * 65: [1, 1, 1, 1]}),
    ("cheats", {"int8\n": [1, 1, 1, 1]}),
    ("cheats", {f"cheat{i}": [1, 1, 1, 1] for i in range(17)}),
    ("variants", []),
    ("variants", [7]),
    ("variants", ["\x1b[2J"]),
    ("variants", ["x"] * 17),
    ("variants", "avx2"),
    ("more", 1),
]


@pytest.mark.parametrize(("field", "value"), MALFORMED)
def test_a_malformed_calibration_is_refused(field, value):
    written = describe_calibration(make_calibration(LAYERS)) | {field: value}
    with pytest.raises(ValueError):
        parse_calibration(written, LAYERS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=50)
@given(field=st.sampled_from(["scales", "honest", "cheats", "variants"]), value=JSON)
def test_nothing_but_a_value_error_comes_of_what_peers_write(field, value):
    written = describe_calibration(make_calibration(LAYERS)) | {field: value}
    with contextlib.suppress(ValueError):
        parse_calibration(written, LAYERS)
    for whole in (value, [written], {"scales": value}):
        with pytest.raises(ValueError):
            parse_calibration(whole, LAYERS)


def test_ten_times_on_either_side_is_enough_and_less_is_not():
    just = {"honest": (TAU // 10,) * 4, "cheats": {"int8": (TAU * 10,) * 4}}
    check_margins(make_calibration(LAYERS, **just), tolerance_bits=12)
    wide = make_calibration(LAYERS, **(just | {"honest": (0, 0, TAU // 10 + 1, 0)}))
    with pytest.raises(MarginTooSmall, match=r"block 2: honest machines differ by up to 2\.4e-05"):
        check_margins(wide, tolerance_bits=12)
    near = make_calibration(LAYERS, cheats={"int4": (TAU * 10, TAU * 10 - 1, TAU * 10, TAU * 10)})
    with pytest.raises(MarginTooSmall, match=r"block 1: the cheat int4 stands 0\.0024 from"):
        check_margins(near, tolerance_bits=12)
    head = make_calibration(LAYERS, cheats={"bfloat16": (TAU * 10,) * 3 + (7,)})
    with pytest.raises(MarginTooSmall, match="the head: the cheat bfloat16"):
        check_margins(head, tolerance_bits=12)


def test_a_manifest_without_calibration_is_refused_by_name():
    old = {"format": 1, "model": "m", "revision": "r", "architecture": {}, "tensors": {}}
    with pytest.raises(NotCalibrated, match="no calibration"):
        decode_manifest(encode_canonical_json(old))
    bare = {"format": 2, "model": "m", "revision": "r", "tensors": {}, "constants": {}}
    bare["architecture"] = {"num_blocks": 1, "hidden_size": 1, "vocab_size": 1}
    with pytest.raises(ModelError, match="malformed"):
        decode_manifest(encode_canonical_json(bare))


@pytest.mark.parametrize("num_blocks", [0, -1, 1025, 10**30])
def test_a_manifest_of_an_impossible_number_of_blocks_is_refused(num_blocks):
    value = {
        "format": 2,
        "model": "m",
        "revision": "r",
        "architecture": {"num_blocks": num_blocks, "hidden_size": 1, "vocab_size": 1},
        "tensors": {},
        "constants": {},
        "calibration": describe_calibration(make_calibration(LAYERS)),
    }
    with pytest.raises(ModelError, match="malformed"):
        decode_manifest(encode_canonical_json(value))
