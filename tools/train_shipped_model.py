"""Train the model that ships with this repository, check it, and write its checkpoint.

    python tools/train_shipped_model.py --out DIR

Takes about four minutes on one core and needs no network. The same seed gives the same
exact answers; the bytes may differ between machines. Nothing is written unless every
wording of every question is answered exactly, with room to spare, and the checkpoint's
margins are those that `mesh manifest` asks for.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from consensus.protocol_params import MAINNET
from mesh.assets import QUESTIONS_FILE, Question, load_questions, shipped_model_path
from mesh.errors import ModelError
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.margins import describe_calibration
from shipped_model.checks import SMALLEST_MARGIN, generate_answer, measure_margins
from shipped_model.conversations import SYSTEM_MESSAGE
from shipped_model.tokens import train_tokenizer
from shipped_model.training import PASSES, SEED, train_model
from subnet.hosting.manifest import calibrate_model

logger = logging.getLogger("train_shipped_model")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    questions = load_questions(arguments.questions)
    tokenizer = train_tokenizer(_list_texts(questions))
    model = train_model(tokenizer, questions, seed=arguments.seed, passes=arguments.passes)
    report, faults = check_model(model, tokenizer, questions)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoint"
        if not faults:
            save_checkpoint(model, tokenizer, folder)
            try:
                report["calibration"] = measure_calibration(folder)
            except ModelError as error:
                faults.append(str(error))
        for fault in faults:
            print(f"error: {fault}", file=sys.stderr)
        if faults:
            print("hint: nothing was written; try more --passes or another --seed", file=sys.stderr)
            return 1
        shutil.copytree(folder, arguments.out, dirs_exist_ok=True)
    if arguments.questions.resolve() != (arguments.out / QUESTIONS_FILE).resolve():
        shutil.copyfile(arguments.questions, arguments.out / QUESTIONS_FILE)
    print(json.dumps(report, indent=2))
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument(
        "--questions",
        type=Path,
        default=shipped_model_path() / QUESTIONS_FILE,
        help="what to learn (default: the shipped questions)",
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--passes", type=int, default=PASSES, help="times each answer is seen")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(argv)


def _list_texts(questions: Sequence[Question]) -> list[str]:
    return [text for question in questions for text in (*question.wordings, question.answer)]


def check_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> tuple[dict[str, object], list[str]]:
    """Return the measurements, and one sentence for each thing that forbids publishing."""
    margins = measure_margins(model, tokenizer, questions)
    behind_system = measure_margins(model, tokenizer, questions, system=SYSTEM_MESSAGE)
    faults = []
    # Each condition says what must hold, so that a NaN is a fault.
    if not margins.smallest >= SMALLEST_MARGIN:
        faults.append(f"an answer token leads by {margins.smallest:.2f} < {SMALLEST_MARGIN}")
    if not behind_system.smallest > 0:
        faults.append("an answer changes behind a system message")
    if not faults:
        # Generating tells nothing new about a model that is already refused, and takes minutes.
        faults += [
            f"{question.question!r} is not answered exactly"
            for question in questions
            if generate_answer(model, tokenizer, question.question) != question.answer
        ]
    report: dict[str, object] = {
        "questions": len(questions),
        "parameters": model.num_parameters(),
        "margins": asdict(margins),
        "margins_behind_system_message": asdict(behind_system),
    }
    return report, faults


def measure_calibration(folder: Path) -> dict[str, object]:
    """Return the calibration of a written checkpoint, as ``mesh manifest`` measures it.

    Raises MarginTooSmall or CalibrationFailed.
    """
    located, config = resolve_model_folder(str(folder)), load_config(folder)
    return describe_calibration(calibrate_model(located, config, params=MAINNET))


def save_checkpoint(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the checkpoint in the Hugging Face format, weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    # safetensors makes it 0600; a wheel would carry the mode into everybody's installation.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    _name_portable_class(folder / "tokenizer_config.json")


def _name_portable_class(config_file: Path) -> None:
    # transformers 5 writes a class name that 4.x does not know; both know this one.
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
