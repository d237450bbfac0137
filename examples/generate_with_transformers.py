"""transformers' generate, with the model's layers at the hosters of a network.

python examples/generate_with_transformers.py /ip4/127.0.0.1/tcp/31330/p2p/12D3KooW...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from transformers import AutoTokenizer, TextStreamer

from mesh.assets import SHIPPED_MODEL_NAME, default_question, shipped_model_path
from mesh.client import AutoDistributedModelForCausalLM


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("initial_peers", nargs="+", help="multiaddresses of nodes")
    parser.add_argument("--model", default=SHIPPED_MODEL_NAME, help="the model that they serve")
    parser.add_argument("--prompt", action="append", help="a question; several make a chat")
    parser.add_argument("--max-new-tokens", type=int, default=400)
    options = parser.parse_args(argv)
    prompts = options.prompt or [default_question().question]

    is_shipped = options.model == SHIPPED_MODEL_NAME
    tokenizer = AutoTokenizer.from_pretrained(shipped_model_path() if is_shipped else options.model)
    with AutoDistributedModelForCausalLM.from_pretrained(
        options.model, initial_peers=options.initial_peers
    ) as model:
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        # Within a session the hosters keep the text: a second question sends only itself.
        with model.inference_session(max_length=model.config.max_position_embeddings):
            for prompt in prompts:
                inputs = tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}],
                    add_generation_prompt=True,
                    return_tensors="pt",
                )
                model.generate(**inputs, max_new_tokens=options.max_new_tokens, streamer=streamer)


if __name__ == "__main__":
    main()
