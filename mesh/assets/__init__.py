"""The model that ships: a small Llama that knows answers about this protocol by heart.

Its greedy answers are exact, so a person and a test can see that inference over any
number of hosters is right. tools/train_shipped_model.py makes the checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SHIPPED_MODEL_NAME = "mesh-tiny"
QUESTIONS_FILE = "questions.json"


@dataclass(frozen=True, slots=True)
class Question:
    """One question and the exact greedy answer; ``also_asked`` wordings have the same answer."""

    question: str
    answer: str
    also_asked: tuple[str, ...] = ()

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every wording that is answered exactly, the main one first."""
        return (self.question, *self.also_asked)


def shipped_model_path() -> Path:
    """Return the folder of the checkpoint, in the Hugging Face format."""
    return Path(__file__).parent / SHIPPED_MODEL_NAME


def get_packaged_manifest(name: str) -> Path:
    """Return the manifest that was made for a model of a package (mesh/model/packaged.py)."""
    return Path(__file__).parent / name / "mesh-manifest.json"


@cache
def shipped_questions() -> tuple[Question, ...]:
    """Return what the shipped model answers exactly. The first one has the longest answer."""
    return load_questions(shipped_model_path() / QUESTIONS_FILE)


def default_question() -> Question:
    """Return the question that demonstrations ask: its answer is long enough to watch."""
    return shipped_questions()[0]


def load_questions(path: Path) -> tuple[Question, ...]:
    """Read a list of questions: JSON objects with question, also_asked and answer.

    Raises OSError if the file cannot be read, ValueError or KeyError if it is not such a list.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Question(entry["question"], entry["answer"], tuple(entry["also_asked"]))
        for entry in entries
    )
