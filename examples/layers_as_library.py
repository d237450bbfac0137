"""Transformer layers as a library: two halves of a model by hand, compared with transformers.

python examples/layers_as_library.py [FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from mesh.assets import shipped_model_path
from mesh.model.attention import Segment
from mesh.model.capacity import count_pages
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.llama import ShardRunner
from mesh.model.weights import load_shard

PROMPT = (1, 4, 347, 352, 383, 320, 552, 36, 2, 5)
NEW_TOKENS = 12
PAGES = range(count_pages(len(PROMPT) + NEW_TOKENS))
"""The text has the whole cache, so its pages are all there are."""


@torch.inference_mode()
def generate_in_two_halves(folder_name: str) -> list[int]:
    """Greedy decoding: the first half embeds, the second half has the head."""
    folder = resolve_model_folder(folder_name)
    config = load_config(folder.source)
    middle = config.num_layers // 2
    halves = [
        ShardRunner(
            load_shard(folder, config, start=start, end=end),
            cache_tokens=len(PROMPT) + NEW_TOKENS,
        )
        for start, end in ((0, middle), (middle, config.num_layers))
    ]
    first, second = halves
    answer: list[int] = []
    new, position = PROMPT, 0
    while len(answer) < NEW_TOKENS:
        # One session, so one segment: its rows follow what its cache holds already.
        segment = Segment(first_row=0, rows=len(new), pages=PAGES, position=position)
        hidden = first.forward(first.embed(new), [segment], start=0, end=middle)
        hidden = second.forward(hidden, [segment], start=middle, end=config.num_layers)
        token_id = int(second.compute_logits(hidden[-1:]).argmax())
        answer.append(token_id)
        new, position = (token_id,), position + len(new)
    return answer


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=str(shipped_model_path()))
    options = parser.parse_args(argv)
    ours = generate_in_two_halves(options.folder)
    model = AutoModelForCausalLM.from_pretrained(options.folder)
    whole = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
    )
    theirs = whole[0, len(PROMPT) :].tolist()
    print("two halves  ", *ours)
    print("transformers", *theirs)
    print("equal" if ours == theirs else "different")


if __name__ == "__main__":
    main()
