"""The ladder out of memory, for real: the programs run under a limit on their data segment (`prlimit --data`)."""

import json
import random
import subprocess
from types import SimpleNamespace

import pytest
import torch
from conftest import DPO, LORA, RECIPE, SFT, TOKENS, TORCH, WORDS, Study, training_flags
from watched import watched

from arms.job.out_of_memory import is_out_of_memory
from arms.memory.probe import worst_batches
from study.rungs import is_known, memory_key, rungs

WIDE = {"source": "random", "family": "llama", "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2}
WIDE |= {"intermediate_size": 16384, "vocab_size": 400, "seed": 0}  # activations of 0.1 MB a token and layer
# Large tensors get pages of their own and one thread its buffers, so that memory is what tensors need.
CLEAN = {"MALLOC_MMAP_THRESHOLD_": "4194304", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}


class Limited(Study):
    """Each program gets a Python of its own; `limit` and `peak`, in bytes, are of its data segment."""

    anew = True
    limit: int | None = None
    peak = 0  # what the last program took

    def start(self, command: list[str]) -> subprocess.CompletedProcess:
        done, self.peak = watched(command, limit=self.limit, cwd=self.folder)
        return done


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A model with wide layers and rows of about 150 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CLEAN.items():
            patch.setenv(name, value)
        made = Limited(tmp_path_factory.mktemp("a wide study"))
        draw = random.Random(0)
        rows = [{"id": f"p{i}", "category": "a", "prompt": " ".join(draw.choices(WORDS, k=4))} for i in range(12)]
        for i, row in enumerate(rows):
            row |= {"completion": text(draw, 60 + i), "chosen": text(draw, 40), "rejected": text(draw, 40)}
        (made.folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = ["--weights", "model/weights", "--card", "model/model.json", "--files", "data.jsonl"]
        made.run("fetch_model", {"model": WIDE}, *flags)
        for kind in ("sft", "pairs"):
            flags = ["--data", "data.jsonl", "--kind", kind, "--tokens", f"{kind}.parquet", "--audit", f"{kind}.json"]
            made.run("tokenize_data", {**TOKENS, "max_length": 256}, "--model", "model/model.json", *flags)
        yield made


def text(draw, words):
    return " ".join(draw.choices(WORDS, k=words))


def settings(stage, **changed):
    """The settings of rule probe_memory."""
    found = {**TORCH, "stage": stage, "model": WIDE, "tokens": {**TOKENS, "max_length": 256, "on_overlong": "drop"}}
    found |= {"rows": None, "lora": LORA, "gpus": 1, "start": "adapter", "max_lengths": [256], "recorded": []}
    found |= {"batch_size": 8, "micro_batch_size": 8, "least_micro_batch_size": 1, "gradient_checkpointing": False}
    return {**found, **changed}


PAIRWISE = {"least_micro_batch_size": 8}  # as for aot losses, which have no smaller micro-batch
CUT = {**TOKENS, "max_length": 256, "on_overlong": "truncate", "eos_after_truncation": True}


@pytest.fixture(scope="module")
def limits(study):
    """Limits under which some rungs fit and others do not: halfway between what they were seen to take.

    sft, dpo: one row in a micro-batch fits, eight do not. rows: eight pairs fit with rows of 40 tokens, not of 256.
    scoring: one row in a batch fits, twelve do not.
    """

    def taken(stage, **changed):
        probe(study, stage, None, "unlimited.json", **changed)
        return study.peak

    one, eight = taken("dpo", start="fresh", recorded=[[2, 256]]), taken("dpo", start="fresh")
    short, rows = taken("dpo", max_lengths=[40], tokens=CUT, **PAIRWISE), taken("sft")
    score(study, "score_pairs", 12)
    found = {"sft": (one, rows), "dpo": (one, eight), "rows": (short, eight), "scoring": (one, study.peak)}
    return SimpleNamespace(**{name: (low + high) // 2 for name, (low, high) in found.items()})


def probe(study, stage, limit, output, fails=False, **changed):
    """Probe within `limit` bytes; the manifest's facts, or the error."""
    study.limit = limit
    flags = ["--model", "model/model.json", "--data", "data.jsonl", "--rung", output]
    try:
        error = study.run("probe_memory", settings(stage, **changed), *flags, fails=fails, stage=stage, variant="")
    finally:
        study.limit = None
    return error if fails else study.read("m.json")["facts"]


@pytest.mark.parametrize(("stage", "start"), [("sft", "adapter"), ("dpo", "fresh")])
def test_a_micro_batch_that_does_not_fit_is_recorded_and_a_smaller_one_used(study, limits, stage, start):
    facts = probe(study, stage, getattr(limits, stage), f"{stage}.rung.json", start=start)
    first, *_, last = facts["attempts"]
    assert first["micro_batch_size"] == 8
    assert not first["fits"]
    assert "DefaultCPUAllocator: can't allocate memory" in first["message"]
    assert last["fits"]
    assert last["micro_batch_size"] in (1, 2, 4)
    rung = study.read(f"{stage}.rung.json")
    expected = {"stage": stage, "micro_batch_size": last["micro_batch_size"], "max_length": 256}
    assert rung == {**expected, "key": memory_key(settings(stage, start=start))}


def test_rows_shrink_last_and_only_if_allowed(study, limits):
    message = probe(study, "dpo", limits.rows, "none.json", fails=True, **PAIRWISE)
    assert "dpo training does not fit into the memory of a CPU: 8 x 256 tokens (micro_batch_size x" in message
    assert "aot losses cannot take less than 8 pairs" in message
    assert "dpo.gradient_checkpointing: true" in message
    assert not (study.folder / "none.json").exists()
    draws = [{"micro_batch_size": 8, "max_length": length} for length in (256, 40)]
    facts = probe(study, "dpo", limits.rows, "short.json", max_lengths=[256, 40], tokens=CUT, **PAIRWISE)
    assert [{name: attempt[name] for name in draws[0]} for attempt in facts["attempts"]] == draws
    assert facts["used"] == draws[1]


def train(study, stage, output, rung, limit=None, fails=False, recipe=None):
    """Train one epoch of a stage on a rung, within a limit."""
    study.limit = limit
    shared = {"max_length": 256, "lora": LORA, **TORCH}
    recipe = {**(SFT if stage == "sft" else DPO)[stage], "batch_size": 8, "micro_batch_size": 8} | (recipe or {})
    more = ["--tokens", "sft.parquet"] if stage == "sft" else ["--tokens", "pairs.parquet", "--reference", "base"]
    flags = [*training_flags(output), *more, "--rung", rung]
    wildcards = {"seed": "1"} if stage == "sft" else {"arm": "dpo_only", "seed": "1"}
    try:
        return study.run(f"train_{stage}", {**shared, stage: recipe}, *flags, fails=fails, **wildcards)
    finally:
        study.limit = None


def test_a_surprise_in_training_is_recorded_refused_and_probed_again(study, limits):
    facts = probe(study, "sft", None, "memory/sft.json")
    assert facts["asked"] == facts["used"] == {"micro_batch_size": 8, "max_length": 256}
    assert [attempt["fits"] for attempt in facts["attempts"]] == [True]
    message = train(study, "sft", "surprise", "memory/sft.json", limit=limits.sft, fails=True)
    assert "out of memory at step 0 with sft.micro_batch_size 8 and rows of up to 256 tokens on a CPU" in message
    assert "recorded in memory/too_large/" in message
    assert "Run the same snakemake command again" in message
    key = memory_key(settings("sft"))
    record = study.read(f"memory/too_large/{key}-8-256.json")
    assert (record["stage"], record["micro_batch_size"], record["max_length"], record["step"]) == ("sft", 8, 256, 0)
    assert "can't allocate memory" in record["message"]
    assert not (study.folder / "surprise" / "arm.json").exists()

    again = train(study, "sft", "surprise", "memory/sft.json", fails=True)  # enough memory now: refused all the same
    assert f"memory/too_large/{key}-8-256.json: micro-batches of 8" in again

    facts = probe(study, "sft", None, "memory/sft.json", recorded=[[8, 256]])
    assert [(attempt["micro_batch_size"], attempt["found_by"]) for attempt in facts["attempts"]] == [
        (8, "training"),
        (4, "probe"),
    ]
    train(study, "sft", "rung", "memory/sft.json")
    observed = study.read("rung/observed.json")
    assert (observed["micro_batch_size"], "max_length" in observed) == (4, False)  # what is not as asked for
    manifest = study.read("m.json")
    assert manifest["settings"]["sft"]["micro_batch_size"] == 8  # what the configuration asks for
    assert manifest["inputs"]["rung sft"]["path"] == "memory/sft.json"


def test_a_rung_trains_exactly_as_if_it_had_been_asked_for(study):
    probe(study, "sft", None, "memory2/sft.json", recorded=[[4, 256]])
    train(study, "sft", "on-a-rung", "memory2/sft.json")
    flags = [*training_flags("asked"), "--tokens", "sft.parquet"]
    asked = {"max_length": 256, "lora": LORA, **TORCH, "sft": {**RECIPE, "batch_size": 8, "micro_batch_size": 2}}
    study.run("train_sft", asked, *flags, seed="1")
    assert study.read("on-a-rung/arm.json") == study.read("asked/arm.json")
    observed = study.read("on-a-rung/observed.json")
    assert observed.pop("micro_batch_size") == 2  # said where it is not what was asked for
    assert observed == study.read("asked/observed.json")


def score(study, rule, size, **options):
    """Score or generate with batches of `size`."""
    generation = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "samples": 40, "batch_size": size, "seed": 5}
    asked = {**TORCH, "batch_size": size} if rule == "score_pairs" else {**TORCH, "generation": generation}
    output = "--table" if rule == "score_pairs" else "--generations"
    flags = ["--model", "model/model.json", "--tokens", "pairs.parquet", output, f"{rule}.parquet"]
    return study.run(rule, asked, *flags, **options)


@pytest.mark.parametrize(("rule", "key", "size"), [("score_pairs", "scoring", 12), ("generate", "generation", 480)])
def test_scoring_and_generation_out_of_memory_name_what_to_lower(study, limits, rule, key, size):
    (study.folder / f"{rule}.parquet").unlink(missing_ok=True)
    study.limit = limits.scoring
    try:
        message = score(study, rule, size, fails=True)
    finally:
        study.limit = None
    assert f"error: out of memory on a CPU with {key}.batch_size {size}; lower it in the config" in message
    assert not (study.folder / f"{rule}.parquet").exists()


def test_rungs_keep_the_batch_and_the_processes():
    asked = {"batch_size": 12, "micro_batch_size": 6, "least_micro_batch_size": 1, "gpus": 1, "max_lengths": [512, 256]}
    sizes = [6, 4, 3, 2, 1]
    found = rungs(asked)
    assert found == [{"micro_batch_size": size, "max_length": length} for length in (512, 256) for size in sizes]
    assert [rung["micro_batch_size"] for rung in rungs({**asked, "gpus": 2, "max_lengths": [512]})] == [6, 3, 2, 1]
    assert len(rungs({**asked, "least_micro_batch_size": 6})) == 2
    assert [is_known(rung, [[4, 256]]) for rung in found] == [True, True, False, False, False] * 2


def test_the_worst_batch_has_the_longest_row_and_the_most_completion_tokens():
    def row(name, prompt, chosen, rejected):
        return {"id": name, "prompt_ids": [0] * prompt, "chosen_ids": chosen, "rejected_ids": rejected}

    rows = [
        row("long prompt", 90, [1, 2], [3, 4]),
        row("long answers", 5, [1] * 30, [2] * 30),
        row("alike", 5, [1] * 40 + [2], [1] * 40 + [3]),
        row("middle", 5, [1] * 25, [2] * 25),
    ]
    assert [row["id"] for row in worst_batches(rows, 2, True)] == [
        "long prompt",
        "long answers",
        "long answers",
        "middle",
    ]
    assert [row["id"] for row in worst_batches(rows, 1, True)] == ["long prompt", "long answers"]
    assert worst_batches(rows, 2, False)[2]["id"] == "alike"  # two rows of their own: nothing is shared


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as allocator:
        torch.empty(2**52)
    with pytest.raises(MemoryError) as python:
        bytearray(2**60)
    with pytest.raises(RuntimeError) as another:
        torch.ones(2) @ torch.ones(3)
    assert is_out_of_memory(allocator.value)
    assert is_out_of_memory(python.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(another.value)
