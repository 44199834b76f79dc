"""What people read at the end, and the line that programs read."""

import json
import statistics
from dataclasses import dataclass
from typing import Any

from engine import Batch

COLUMNS = (
    ("phase", 52),
    ("prompt", 8),
    ("GPU", 8),
    ("kvtier", 8),
    ("computed", 9),
    ("first token", 12),
    ("answers", 10),
)


@dataclass(frozen=True)
class Row:
    """One phase of the demo. `equal` is None where there is nothing to compare with."""

    phase: str
    batch: Batch | None = None
    equal: bool | None = None
    connected: bool = True

    def cells(self) -> list[str]:
        """The row's texts, one for each column."""
        if self.batch is None:
            return [self.phase]
        batch = self.batch
        computed = batch.prompt_tokens - batch.gpu_tokens - batch.kvtier_tokens
        tokens = (batch.prompt_tokens, batch.gpu_tokens, batch.kvtier_tokens, computed)
        answers = {None: "reference", True: "equal", False: "DIFFERENT"}[self.equal]
        first = f"{milliseconds(batch):,.0f} ms"
        return [self.phase, *(f"{count:,}" for count in tokens), first, answers]


def milliseconds(batch: Batch) -> float:
    """The median time from asking to the first token of the answer."""
    return statistics.median(batch.first_token_seconds) * 1000


def table(rows: list[Row]) -> str:
    """All rows under a heading, for people."""
    lines = [" " * (COLUMNS[0][1]) + "  ------- prompt tokens from ------"]
    for cells in [[name for name, _ in COLUMNS], *(row.cells() for row in rows)]:
        (first, width), rest = (cells[0], COLUMNS[0][1]), zip(cells[1:], COLUMNS[1:])
        lines.append(first.ljust(width) + "".join(text.rjust(column[1]) for text, column in rest))
    lines.insert(2, "-" * sum(width for _, width in COLUMNS))
    return "\n".join(line.rstrip() for line in lines)


def json_ok(rows: list[Row], **more: Any) -> str:
    """The last line of a demo that went well. The counts are those of the engines that used kvtier."""
    batches = [row.batch for row in rows if row.batch and row.connected]
    result = {
        "demo": "ok",
        "answers_equal": all(row.equal is not False for row in rows),
        "prompt_tokens": sum(batch.prompt_tokens for batch in batches),
        "kvtier_tokens": sum(batch.kvtier_tokens for batch in batches),
    }
    return json.dumps(result | more)


def json_failed(reason: str) -> str:
    """The last line of a demo that failed."""
    return json.dumps({"demo": "failed", "reason": reason})
