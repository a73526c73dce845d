"""The files of a task on its way through the study: requests, their token ids, answers, row for row.

requests   what lm-evaluation-harness asks, in its order. task: of a group, the one it belongs to. conversation: whether
           context is a conversation, as JSON {messages, continued}, which the model's chat template renders. Either
           continuation is given, whose log-probability is asked for, or until and max_new_tokens: the answer is cut
           before the first of these texts.
tokens     the same as ids; answer_ids are null where an answer is to be written.
answers    logp (nats, summed over the continuation's tokens) and greedy (whether each was the most likely one), or
           text, n_tokens and status (ok, or truncated: it was not done after max_new_tokens).
items      the task's items as held-out rows, from which the statistics know category and cluster.
"""

from __future__ import annotations

from pathlib import Path

from arms.job.files import UserError, atomic_path

Columns = dict[str, str]  # name -> Arrow type

REQUESTS: Columns = {
    "task": "string",
    "doc_id": "int32",
    "idx": "int32",
    "few_shot": "int32",
    "conversation": "bool",
    "context": "string",
    "continuation": "string",
    "until": "list of string",
    "max_new_tokens": "int32",
}
TOKENS: Columns = {
    "id": "string",
    "prompt_ids": "list of int32",
    "answer_ids": "list of int32",
    "until": "list of string",
    "max_new_tokens": "int32",
}
ANSWERS: Columns = {"logp": "double", "greedy": "bool", "text": "string", "n_tokens": "int32", "status": "string"}
ITEMS: Columns = {"id": "string", "prompt": "string", "category": "string", "cluster_id": "string"}


def item_id(name: str, task: str, doc_id: int) -> str:
    """The id of an item among the held-out rows: gsm8k/12, or mmlu/mmlu_anatomy/3 for a task of a group.

    >>> item_id("gsm8k", "gsm8k", 12), item_id("mmlu", "mmlu_anatomy", 3)
    ('gsm8k/12', 'mmlu/mmlu_anatomy/3')
    """
    return "/".join([name, *([task] if task != name else []), str(doc_id)])


def write_rows(path: str | Path, rows: list[dict], columns: Columns) -> None:
    """Write rows as parquet, with these columns; what a row does not have is null. Equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrow(kind: str) -> pa.DataType:
        plain = pa.type_for_alias(kind.removeprefix("list of "))
        return pa.list_(plain) if kind.startswith("list of ") else plain

    schema = pa.schema([(name, arrow(kind)) for name, kind in columns.items()])
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")


def read_rows(path: str | Path, columns: Columns) -> list[dict]:
    """The rows of a file that `write_rows` wrote; UserError for another one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: {error}; delete it and run Snakemake again") from None
    if table.column_names != list(columns):
        raise UserError(f"{path}: not a file of this kind (columns: {', '.join(table.column_names)}); delete it")
    return table.to_pylist()
