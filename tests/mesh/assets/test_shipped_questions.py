"""The list of questions that people and demonstrations use. Needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.assets import default_question, load_questions, shipped_model_path, shipped_questions

MIN_QUESTIONS = 60


def test_there_are_enough_questions_and_no_wording_is_asked_twice() -> None:
    questions = shipped_questions()
    wordings = [wording.lower() for question in questions for wording in question.wordings]
    assert len(questions) >= MIN_QUESTIONS
    assert len(set(wordings)) == len(wordings)


def test_every_answer_is_clean_text() -> None:
    for question in shipped_questions():
        assert question.answer == " ".join(question.answer.split())
        assert question.answer.endswith((".", "!"))


def test_the_default_question_has_the_longest_answer() -> None:
    longest = max(shipped_questions(), key=lambda question: len(question.answer))
    assert default_question() == longest


def test_an_answer_has_characters_of_several_bytes() -> None:
    assert any(not question.answer.isascii() for question in shipped_questions())


def test_a_file_that_is_no_question_list_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    file.write_text('[{"question": "Why?"}]')
    with pytest.raises(KeyError):
        load_questions(file)


def test_the_questions_are_read_without_torch() -> None:
    code = (
        "import sys, mesh.assets; mesh.assets.shipped_questions();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_checkpoint_is_small_and_complete() -> None:
    folder = shipped_model_path()
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert 0 < weights <= 8 * 1024 * 1024
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).is_file()
