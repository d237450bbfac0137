"""Decode steps of fixed shapes equal the padded path, and write only to their own pages."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from mesh.model import step_graphs
from mesh.model.attention import Segment
from mesh.model.capacity import PAGE_TOKENS
from mesh.model.config import load_config
from mesh.model.decode_step import FROM_LAST_STEP
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner
from mesh.model.step_graphs import list_sizes, make_step_graphs
from mesh.model.weights import load_shard
from tests.support.families import FAMILIES

TABLES = [(3, 9), (0, 1), (7, 6), (12, 2), (4, 8)]
PROMPTS = [list(range(3, 10 + 3 * i)) for i in range(5)]


def make_runner(folder, *, span=(0, 6), dtype="float32", deterministic=False):
    weights = load_shard(
        resolve_model_folder(str(folder)),
        load_config(folder),
        start=span[0],
        end=span[1],
        dtype=dtype,
    )
    return ShardRunner(
        weights,
        cache_tokens=13 * PAGE_TOKENS,
        deterministic=deterministic,
        has_scratch_page=True,
    )


def make_graphs(runner, *, max_rows=8, deterministic=False):
    graphs = make_step_graphs(runner, max_rows=max_rows, deterministic=deterministic)
    assert graphs is not None
    return graphs


def prefill(runner, places):
    for place in places:
        prompt = PROMPTS[place]
        segment = Segment(0, len(prompt), TABLES[place], 0)
        runner.forward(runner.embed(prompt), [segment], start=0, end=6)


def decode(graphs, places, count, *, first=5):
    """Greedy tokens of some prompts, and the logits of the last step."""
    token_ids, found = [first] * len(places), []
    for step in range(count):
        positions = [len(PROMPTS[place]) + step for place in places]
        out = graphs.launch(token_ids, positions, [TABLES[place] for place in places])
        found.append(out.token_ids.tolist())
        token_ids = [FROM_LAST_STEP] * len(places)
    return found, out.logits.clone()


def test_sizes_are_powers_of_two_up_to_the_limit():
    assert list_sizes(1) == (1,)
    assert list_sizes(8) == (1, 2, 4, 8)
    assert list_sizes(48) == (1, 2, 4, 8, 16, 32, 48)


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    # Experts are chosen: in bfloat16 another one may be, and the logits are others then.
    [(name, "float32") for name in FAMILIES]
    + [(name, "bfloat16") for name in FAMILIES if "Moe" not in name],
)
def test_a_step_of_fixed_shapes_gives_the_logits_of_the_other_path(
    make_checkpoint, architecture, dtype
):
    folder = make_checkpoint(architecture, **FAMILIES[architecture])
    places = range(5)
    with torch.inference_mode():
        one, other = make_runner(folder, dtype=dtype), make_runner(folder, dtype=dtype)
        for runner in (one, other):
            prefill(runner, places)
        graphs = make_graphs(one)
        found, logits = decode(graphs, places, 6)
        token_ids = [5] * len(places)
        for step in range(6):
            segments = [Segment(i, 1, TABLES[i], len(PROMPTS[i]) + step) for i in places]
            x = other.forward(other.embed(token_ids), segments, start=0, end=6)
            expected = other.compute_logits(x)
            # What the graph chose: bfloat16 may choose otherwise where two are nearly as likely.
            token_ids = found[step]
        atol = 1e-4 if dtype == "float32" else 0.05 * float(expected.abs().max())
        assert torch.allclose(logits, expected, atol=atol)
        if dtype == "float32":
            assert found[-1] == expected.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_row_has_the_same_bits_alone_and_in_a_crowd(make_checkpoint, architecture, dtype):
    folder = make_checkpoint(architecture, **FAMILIES[architecture])
    with torch.inference_mode():
        runner = make_runner(folder, dtype=dtype, deterministic=True)
        graphs = make_graphs(runner, deterministic=True)
        prefill(runner, range(5))
        together, logits = decode(graphs, range(5), 4)
        for place in range(5):
            alone, row = decode(graphs, [place], 4)
            assert [tokens[0] for tokens in alone] == [tokens[place] for tokens in together]
            assert torch.equal(row[0], logits[place])


def test_padding_touches_the_scratch_page_only(make_checkpoint):
    with torch.inference_mode():
        runner = make_runner(make_checkpoint())
        graphs = make_graphs(runner)
        runner.cache.slab.fill_(math.nan)
        prefill(runner, [0, 1, 2])
        before = runner.cache.slab.clone()
        _, logits = decode(graphs, [0, 1, 2], 1)
        assert torch.isfinite(logits).all()
        # Four rows were computed: three of sessions, one of padding.
        written = {
            TABLES[place][len(PROMPTS[place]) // PAGE_TOKENS] * PAGE_TOKENS
            + len(PROMPTS[place]) % PAGE_TOKENS
            for place in range(3)
        }
        scratch = runner.cache.scratch_page * PAGE_TOKENS
        same = (runner.cache.slab == before) | (runner.cache.slab.isnan() & before.isnan())
        changed = (~same).any(dim=4).any(dim=2).any(dim=0).any(dim=0).nonzero().flatten()
        assert set(changed.tolist()) == {*written, scratch}


@pytest.mark.parametrize("table", [(13,), (0, 99), (-1,), (), (0,)])
def test_a_table_that_points_outside_or_is_too_short_is_refused(make_checkpoint, table):
    """The scratch page, number 13, is no session's either."""
    with torch.inference_mode():
        graphs = make_graphs(make_runner(make_checkpoint()))
        graphs.launch([3], [0], [(0, 1)])
        with pytest.raises(ValueError, match="page"):
            graphs.launch([3, 3], [4, PAGE_TOKENS], [(0,), table])
        assert graphs.launch([3], [0], [(0, 1)]).token_ids.shape == (1,)


def test_three_ranges_pass_hidden_states_on(make_checkpoint):
    folder = make_checkpoint()
    with torch.inference_mode():
        whole = make_runner(folder)
        prefill(whole, range(5))
        _, expected = decode(make_graphs(whole), range(5), 1)
        runners = [make_runner(folder, span=span) for span in ((0, 2), (2, 4), (4, 6))]
        graphs = [make_graphs(runner) for runner in runners]
        for place in range(5):
            prompt = PROMPTS[place]
            x = runners[0].embed(prompt)
            for runner in runners:
                segment = Segment(0, len(prompt), TABLES[place], 0)
                span = runner.weights
                x = runner.forward(x, [segment], start=span.start, end=span.end)
        positions = [len(prompt) for prompt in PROMPTS]
        out = graphs[0].launch([5] * 5, positions, TABLES)
        for graph in graphs[1:]:
            hidden = out.hidden.clone()
            out = graph.launch([0] * 5, positions, TABLES, hidden)
            assert torch.equal(out.rows_in, hidden)
        assert torch.allclose(out.logits, expected, atol=1e-5)


def test_the_next_step_is_staged_where_the_last_one_is_not(make_checkpoint):
    """A card may still be copying the last step's inputs when the next are written."""
    with torch.inference_mode():
        graphs = make_graphs(make_runner(make_checkpoint()))
        first, second = graphs._memory.staging
        graphs.launch([3], [0], [(0, 1)])
        kept = first.clone()
        graphs.launch([9, 9], [5, 6], [(2, 3), (4, 5)])
        assert torch.equal(first, kept) and not torch.equal(second, kept)


def test_the_copy_to_the_device_ends_with_the_longest_table_in_use(make_checkpoint):
    with torch.inference_mode():
        runner = make_runner(make_checkpoint())
        graphs = make_graphs(runner)
        columns = [np.array(table, dtype=np.int32) for table in TABLES[:2]]
        ends = [
            graphs._steps[2]._staged[0].write([3, 3], [0, 0], cut, None)
            for cut in ([column[:1] for column in columns], columns)
        ]
        start = graphs._steps[2].inputs.tables_start
        assert ends == [start + 2 * 4, start + 2 * 2 * 4]


def test_a_capture_that_fails_is_said_once_and_the_shard_is_served_without(
    make_checkpoint, monkeypatch, caplog
):
    def fail(step, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(step_graphs, "capture", fail)
    runner = make_runner(make_checkpoint())
    assert make_step_graphs(runner, max_rows=8, deterministic=False) is None
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.getMessage().endswith("operation not permitted when stream is capturing")


@pytest.mark.parametrize("bound", ["MAX_CAPTURE_S", "MAX_GRAPH_BYTES"])
def test_what_is_not_captured_in_time_or_memory_is_computed_as_the_next_larger(
    make_checkpoint, monkeypatch, caplog, bound
):
    caplog.set_level("INFO")
    monkeypatch.setattr(step_graphs, bound, -1)
    with torch.inference_mode():
        runner = make_runner(make_checkpoint())
        graphs = make_graphs(runner)
        assert graphs.sizes == (8,)
        assert "less than 8 rows are not captured" in caplog.text
        assert "8 rows are captured: " in caplog.text and "MiB" in caplog.text
        prefill(runner, [1])
        few, _ = decode(graphs, [1], 3)
        monkeypatch.undo()
        more, _ = decode(make_graphs(runner), [1], 3)
        assert few == more
