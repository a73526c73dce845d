"""Answers of a policy to a task's requests: texts, greedily, and log-probabilities of continuations."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from arms.job.out_of_memory import naming_the_cure
from arms.scoring import logps
from arms.scoring.generation import Generator, Sample

if TYPE_CHECKING:
    from arms.scoring.policy import Policy

GREEDY = {"samples": 1, "temperature": 0.0, "top_p": 1.0, "seed": 0}


@dataclass
class Answer(Sample):
    """A text on its way. until: texts before which it is cut; limit: its most tokens; stopped: whether one has come."""

    until: list[str] = field(default_factory=list)
    limit: int = 0
    stopped: bool = False


class Writer(Generator):
    """Lets a policy write answers, each until one of its own texts comes, or to its own length."""

    def __init__(self, policy: Policy, rows: Sequence[dict], batch_size: int) -> None:
        longest = max((row["max_new_tokens"] for row in rows), default=1)
        super().__init__(policy, {**GREEDY, "batch_size": batch_size, "max_new_tokens": longest})
        # A text to stop at that is a control token is never decoded, so its id has to end the answer.
        control, texts = policy.tokenizer.get_added_vocab(), {text for row in rows for text in row["until"]}
        self.ends |= {control[text] for text in texts if text in control}
        self.config.eos_token_id = sorted(self.ends)

    def answers(self, rows: Sequence[dict], begun: list[list[int]] | None) -> list[Answer]:
        """One answer for each row (id, prompt_ids, until, max_new_tokens), empty or as far as `begun`."""
        given = zip(rows, begun or [[]] * len(rows), strict=True)
        found = [
            Answer(row["id"], 0, row["prompt_ids"], list(ids), row["until"], row["max_new_tokens"])
            for row, ids in given
        ]
        for answer in found:
            answer.stopped = self.has_stopped(answer)
        return found

    def is_open(self, sample: Sample) -> bool:
        """Whether an answer goes on."""
        assert isinstance(sample, Answer)
        ended = bool(sample.ids) and (sample.ids[-1] in self.ends or len(sample.ids) >= sample.limit)
        return not (ended or sample.stopped)

    def add(self, sample: Sample, new: list[int]) -> None:
        """Add `new` tokens to one answer, none after its end or beyond its own length."""
        assert isinstance(sample, Answer)
        super().add(sample, new)
        del sample.ids[sample.limit :]
        sample.stopped = self.has_stopped(sample)

    def text(self, answer: Answer) -> str:
        """What has been written so far."""
        return self.policy.tokenizer.decode(answer.ids, skip_special_tokens=True)

    def has_stopped(self, answer: Answer) -> bool:
        """Whether a text has come before which the answer is cut."""
        text = self.text(answer)
        return any(end in text for end in answer.until)

    def outcome(self, sample: Sample) -> dict:
        """text, n_tokens (as far as it was written) and status of an answer: ok, or truncated (it was not done)."""
        assert isinstance(sample, Answer)
        text = self.text(sample)
        for end in sample.until:
            text = text.split(end)[0]
        done = sample.stopped or sample.ids[-1] in self.ends
        return {"text": text, "n_tokens": len(sample.ids), "status": "ok" if done else "truncated"}


def shared_rows(rows: Sequence[dict]) -> list[list[int]]:
    """Places of rows (prompt_ids, answer_ids) by what the model has to read for them, the longest first.

    Answers that differ in their last token alone, such as letters of choices, are one row.
    """
    groups = defaultdict(list)
    for place, row in enumerate(rows):
        groups[len(row["prompt_ids"]), *(row["prompt_ids"] + row["answer_ids"])[:-1]].append(place)
    return sorted(groups.values(), key=lambda places: (-length(rows[places[0]]), places[0]))


def length(row: dict) -> int:
    """How many tokens a row (prompt_ids, answer_ids) has."""
    return len(row["prompt_ids"]) + len(row["answer_ids"])


def score_answers(
    policy: Policy, rows: Sequence[dict], size: int, known: dict[int, tuple[float, bool]]
) -> Iterator[dict[int, tuple[float, bool]]]:
    """After each batch: place of a row -> (log-probability in nats, whether each token was the most likely one).

    known: what an interrupted run has left.
    """
    waiting = [places for places in shared_rows(rows) if places[0] not in known]
    for start in range(0, len(waiting), size):
        batch = waiting[start : start + size]
        with naming_the_cure("scoring.batch_size", size):
            tables = next_token_logps(policy, [rows[places[0]] for places in batch])
        for places, table in zip(batch, tables, strict=True):
            for place in places:
                known[place] = score_answer(table, rows[place]["answer_ids"])
        yield known


def score_answer(table: torch.Tensor, answer: list[int]) -> tuple[float, bool]:
    """(Log-probability, whether greedy) of an answer. table: log-probabilities (at least its tokens, vocabulary)."""
    ids = torch.tensor(answer, device=table.device)
    own = table[-len(answer) :]
    return float(own.gather(1, ids.unsqueeze(1)).sum()), bool((own.argmax(-1) == ids).all())


def next_token_logps(policy: Policy, rows: Sequence[dict]) -> list[torch.Tensor]:
    """For each row log-probabilities fp32 (answer tokens, vocabulary), in nats, in one forward pass.

    The output head runs only where a token of an answer is predicted.
    """
    model, pairs = policy.model, [(row["prompt_ids"], row["answer_ids"]) for row in rows]
    batch = logps.completion_batch([(prompt, answer) for prompt, answer in pairs], policy.tokenizer.pad_token_id)
    batch = {name: tensor.to(policy.device) for name, tensor in batch.items()}
    inner, given, scored = logps.causal_lm(model), {}, batch["segment"] > 0
    if "position_ids" in inspect.signature(inner.base_model.forward).parameters:
        given["position_ids"] = batch["position_ids"]
    place = torch.arange(len(rows), device=policy.device).unsqueeze(1).expand_as(scored)[scored]
    half = torch.autocast(policy.device.type, dtype=torch.bfloat16, enabled=policy.dtype == torch.bfloat16)
    with torch.inference_mode(), half:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = inner.base_model(input_ids=ids, attention_mask=mask, use_cache=False, **given)[0]
        found = logps._logits(inner, hidden[place, batch["source"][scored]]).log_softmax(-1)
    return list(found.split([len(answer) for _, answer in pairs]))
