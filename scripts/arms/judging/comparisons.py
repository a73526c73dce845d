"""What a judge compares: the answers of two runs to the same held-out prompts, each pair in both orders.

An empty answer has lost against one with text, and equal answers are a tie: neither is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arms.data.score_table import UNTRAINED
from arms.job.files import UserError, atomic_path
from arms.job.formats import read_rows
from study.runs import Run

# columns of what a judge wrote; first: the run whose answer was shown first, value: of that answer
ANSWERS = {
    "prompt_id": "string", "sample_idx": "int16", "first": "string", "value": "double", "verdict": "string",
    "status": "string",
    "unasked": "string", "text": "string", "finish_reason": "string", "model": "string", "fingerprint": "string",
    "prompt_tokens": "int32", "completion_tokens": "int32", "key": "string",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, in one order. reversed: whether the second run's answer is shown first."""

    prompt_id: str
    sample_idx: int
    reversed: bool
    question: str
    answer_a: str
    answer_b: str

    @property
    def unasked(self) -> tuple[float, str] | None:
        """(value of the answer that is shown first, why) where no judge is needed."""
        empty = not self.answer_a.strip(), not self.answer_b.strip()
        if all(empty) or self.answer_a == self.answer_b:
            return 0.5, "same"
        return (float(empty[1]), "empty") if any(empty) else None


def read_answers(path: str) -> dict[tuple[str, int], str]:
    """(prompt, sample) -> answer of one run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=["prompt_id", "sample_idx", "text"]).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: not a table of answers ({error}); delete it and run Snakemake again") from None
    return {(row["prompt_id"], row["sample_idx"]): row["text"] or "" for row in rows}


def comparisons(prompts: str, first: str, second: str) -> Iterator[Comparison]:
    """All comparisons of two runs' answers, sorted by prompt, sample and order."""
    questions = {row["id"]: row["prompt"] for row in read_rows(prompts, {"id": str, "prompt": str})}
    one, other = read_answers(first), read_answers(second)
    for path, answers in ((first, one), (second, other)):
        odd = (answers.keys() ^ one.keys()) or {key for key in answers if key[0] not in questions}
        if odd:
            raise UserError(
                f"{path}: the answers are not to the prompts that {first} and {prompts} have, such as {min(odd)[0]!r}; "
                "delete it and run Snakemake again"
            )
    for prompt, sample in sorted(one):
        texts = one[prompt, sample], other[prompt, sample]
        for backwards in (False, True):
            a, b = reversed(texts) if backwards else texts
            yield Comparison(prompt, sample, backwards, questions[prompt], a, b)


def write_judgements(target: str, run: Run, other: Run, judged: list[tuple[Comparison, float | None, str]]) -> None:
    """Write (comparison, value of the answer shown first, status) rows as the statistics read pairs."""
    seed = next((one.seed for one in (run, other) if one.seed is not None), UNTRAINED)
    rows = []
    for compared, value, status in judged:
        a, b = (other, run) if compared.reversed else (run, other)
        rows.append((a.arm, b.arm, seed, compared.prompt_id, compared.sample_idx, value, status,
                     float(len(compared.answer_a)), float(len(compared.answer_b))))  # fmt: skip
    kinds = {
        "arm_a": "string", "arm_b": "string", "train_seed": "int32", "prompt_id": "string", "sample_idx": "int16",
        "value": "double", "status": "string", "length_a": "double", "length_b": "double",
    }  # fmt: skip
    write_table(target, kinds, rows)


def write_table(target: str | Path, kinds: dict[str, str], rows: list[tuple]) -> None:
    """Write rows as parquet, with these columns (name -> Arrow type). Equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    arrays = [
        pa.array(list(values), pa.type_for_alias(kind)) for values, kind in zip(columns, kinds.values(), strict=True)
    ]
    with atomic_path(target) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, names=list(kinds)), temporary, compression="zstd")
