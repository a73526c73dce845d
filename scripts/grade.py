"""Score one run of one arm: graded pass rate, preference accuracy and log-probability margin, in the score contract.

    python scripts/grade.py --job '{"rule": "grade", "wildcards": {"run": "sft-seed1"}, "settings": {}}' \
        --prompts results/demo/data/heldout_prompts.parquet --generations G.parquet --pair-logps L.parquet \
        --pref-acc A.parquet --pass-rate B.parquet --logp-margin C.parquet --manifest M.json

Generations: prompt_id, sample_idx, text, n_tokens, status. Pair log-probabilities (sums over the answer's tokens):
pair_id, chosen_logp, chosen_tokens, rejected_logp, rejected_tokens.

Each output has one row for each (prompt, sample), sorted: arm, train_seed, prompt_id, sample_idx, value, status,
gen_sha256. A generation that was cut before it ended has failed: its value is 0 and its status `truncated`. An empty
one has no value and the status `empty`; the statistics count it at the worst bound. Equal inputs give equal bytes.
A study without held-out prompts has no generations and no pass rate.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from arms.data.functions import FunctionFailed
from arms.data.graders import Graders
from arms.data.score_table import write_scores
from arms.data.sources import read_checked
from arms.job.files import UserError, exit_with_message, sha256_bytes
from arms.job.manifest import Job
from arms.job.program import JobParser
from study.runs import Run
from study.vocabulary import METRICS

STATUSES = ("ok", "empty", "truncated")


def main() -> None:
    """Check everything that can be checked, then grade, then write."""
    parser = JobParser(__doc__)
    parser.input("prompts", default=None, help="checked table of the held-out prompts, or a file in its layout")
    parser.input("graders", nargs="*", default=[], help="Python file with graders that the prompts name")
    parser.input("generations", default=None, help="answers to them (parquet)")
    parser.input("pair_logps", help="log-probabilities of the held-out pairs (parquet)")
    for metric in METRICS:
        parser.output(metric, default=None, help=f"scores of metric {metric} (parquet, output)")
    args = parser.parse_args()
    job = Job(args)
    try:
        run = Run.parse(job.wildcards.get("run", ""))
    except ValueError as error:
        raise UserError(f"--job, wildcard run: {error}") from None

    pairs = read_pairs(args.pair_logps)
    with Graders(*args.graders) as graders:
        prompts = read_prompts(args.prompts, graders) if args.prompts else {}
        generations = read_generations(args.generations, prompts, args.prompts) if args.generations else []
        passed = [(g["prompt_id"], g["sample_idx"], *grade(prompts[g["prompt_id"]], g, graders)) for g in generations]
    preferred = [(p["pair_id"], 0, float(p["chosen_logp"] > p["rejected_logp"]), "ok", None) for p in pairs]
    margins = [(p["pair_id"], 0, margin(p), "ok", None) for p in pairs]
    for target, rows in ((args.pass_rate, passed), (args.pref_acc, preferred), (args.logp_margin, margins)):
        if target:
            write_scores(target, run, rows)

    statuses = Counter(row[3] for row in passed)
    rate = sum(row[2] or 0.0 for row in passed) / len(passed) if passed else None
    accuracy = sum(row[2] for row in preferred) / len(preferred)
    if rate is not None:
        job.say(f"pass rate {rate:.3f} of {len(passed)} answers ({statuses['truncated']} never ended)")
    job.say(f"preference accuracy {accuracy:.3f} of {len(pairs)} pairs")
    job.finish(
        pass_rate=rate,
        preference_accuracy=accuracy,
        statuses=dict(statuses),
        truncated=statuses["truncated"],
    )


def read_prompts(path: str, graders: Graders) -> dict[str, dict]:
    """Prompt id -> row. The data checks refuse bad ones before training; so does this, for whoever uses grade alone."""
    prompts: dict[str, dict] = {}
    for row in read_checked(path, "prompts", graders.check):
        if prompts.setdefault(row["id"], row) is not row:
            raise UserError(f"{row['_place']}: 'id' occurs twice; give every row an id of its own")
    return prompts


def read_table(path: str, columns: tuple[str, ...]) -> list[dict]:
    """Rows of a parquet file that has at least `columns`; UserError otherwise."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; the rule before this one makes it")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a parquet file ({error}); delete it and run Snakemake again") from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r} (found: {', '.join(table.column_names)})")
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows; delete it and run Snakemake again")
    return table.to_pylist()


def read_generations(path: str, prompts: dict[str, dict], prompts_path: str) -> list[dict]:
    """Generations sorted by (prompt_id, sample_idx): each prompt with samples 0..K-1, no other prompt."""
    rows = read_table(path, ("prompt_id", "sample_idx", "text", "n_tokens", "status"))
    again = "delete it and run Snakemake again, so that it is generated from these prompts"
    found = Counter((row["prompt_id"], row["sample_idx"]) for row in rows)
    for row in rows:
        if row["prompt_id"] not in prompts:
            raise UserError(f"{path}: prompt_id {row['prompt_id']!r} is not in {prompts_path}; {again}")
        if row["status"] not in STATUSES:
            raise UserError(
                f"{path}: prompt_id {row['prompt_id']!r} has status {row['status']!r}, expected one of "
                f"{', '.join(STATUSES)}; {again}"
            )
    samples = 1 + max(row["sample_idx"] for row in rows)
    for name in prompts:
        for sample in range(samples):
            if found[name, sample] != 1:
                what = "no" if not found[name, sample] else f"{found[name, sample]} times the"
                raise UserError(f"{path}: {what} answer to prompt_id {name!r}, sample_idx {sample}; {again}")
    return sorted(rows, key=lambda row: (row["prompt_id"], row["sample_idx"]))


def read_pairs(path: str) -> list[dict]:
    """Pair log-probabilities sorted by pair_id; UserError for a repeated pair and for values no model can give."""
    columns = ("chosen_logp", "chosen_tokens", "rejected_logp", "rejected_tokens")
    rows = read_table(path, ("pair_id", *columns))
    for name, times in Counter(row["pair_id"] for row in rows).items():
        if times > 1:
            raise UserError(f"{path}: pair_id {name!r} is there {times} times; give each pair its own id")
    for row in rows:
        for column in columns:
            value = row[column]
            if value is None or not math.isfinite(value) or (column.endswith("tokens") and value < 1):
                raise UserError(
                    f"{path}: pair_id {row['pair_id']!r} has {column} = {value}; "
                    "has its training diverged? lower the learning rate of that arm"
                )
    return sorted(rows, key=lambda row: row["pair_id"])


def grade(prompt: dict, generation: dict, graders: Graders) -> tuple[float | None, str, str]:
    """(value, status, gen_sha256) of one generation: 1.0 if it passes its prompt's grader, else 0.0.

    An answer that ran into the token limit has failed: it could pass ("no commas") by never being finished. That is an
    outcome, seen in full (a model that repeats itself for ever), so it has a value and is not missing.
    """
    text = generation["text"] or ""
    if generation["status"] == "truncated":
        value, status = 0.0, "truncated"
    elif generation["status"] == "empty" or not text.strip():
        value, status = None, "empty"
    else:
        try:
            value, status = float(graders.passes(prompt, text)), "ok"
        except (FunctionFailed, TimeoutError) as error:
            raise UserError(
                f"{prompt['_place']}: the grader fails on an answer to {prompt['id']!r} ({error or 'too slow'}); "
                "correct it: only the grading runs again"
            ) from error
    return value, status, sha256_bytes(text.encode("utf-8"))


def margin(pair: dict) -> float:
    """Difference of the mean log-probability per token, chosen minus rejected, in nats."""
    return pair["chosen_logp"] / pair["chosen_tokens"] - pair["rejected_logp"] / pair["rejected_tokens"]


if __name__ == "__main__":
    exit_with_message(main)
