"""The conversations: each turn's prompt is everything said so far, and all begin with the same system prompt.

Prompts are token ids; there is no tokenizer. A turn's prompt holds the answers to the turns before it, so the reference
engine's answers make the prompts, and every engine is asked exactly the same.
"""

import random
from dataclasses import dataclass, field

from engine import Job
from model import VOCABULARY

SYSTEM_TOKENS = 1024
# The user begins with a document and then asks short questions about it.
DOCUMENT_TOKENS = 2048
QUESTION_TOKENS = 256
ANSWER_TOKENS = 16
CONVERSATIONS = 4
FIRST_ORDINARY_TOKEN = 3


@dataclass
class Conversation:
    """One conversation: its name, what the user says in each turn, and the answers known so far."""

    name: str
    system: list[int]
    said: list[list[int]]
    answers: list[list[int]] = field(default_factory=list)

    def job(self, turn: int) -> Job:
        """The request of a turn (1, 2, ...), for which the answers to the turns before must be known."""
        prompt = list(self.system)
        for before in range(turn - 1):
            prompt += self.said[before] + self.answers[before]
        return Job(f"{self.name}-turn{turn}", prompt + self.said[turn - 1], ANSWER_TOKENS)


def make_conversations(turns: int, seed: int = 11) -> list[Conversation]:
    """The same seed gives the same conversations."""
    source = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [source.randrange(FIRST_ORDINARY_TOKEN, VOCABULARY) for _ in range(count)]

    system = tokens(SYSTEM_TOKENS)
    return [
        Conversation(
            f"talk{number}", system, [tokens(QUESTION_TOKENS + (DOCUMENT_TOKENS if turn == 0 else 0)) for turn in range(turns)]
        )
        for number in range(1, CONVERSATIONS + 1)
    ]
