"""Answers of a policy to prompts.

Answers that have ended leave their batch (arms.scoring.decoding). After a round the open ones form full batches again.
Each batch has a seed of its own, which makes its draws independent of the batches before it: a job may go on after any
batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, StoppingCriteria

from arms.job.files import canonical_json, sha256_bytes
from arms.job.out_of_memory import naming_the_cure
from arms.model.fit import check_length
from arms.scoring import decoding
from arms.stacks import stack

if TYPE_CHECKING:
    from arms.scoring.policy import Policy

ROUND = 320  # new tokens before open answers form full batches again, reading their own beginnings once more
STEP = 32  # new tokens before it is seen which answers a text ended (arms.scoring.task_answers)
LEAVING = 1 / 8  # the share of a batch that has ended before it leaves: what stays is copied then


@dataclass
class Sample:
    """One answer to a prompt, as far as it has come: `ids`, the end included."""

    prompt_id: str
    sample_idx: int
    prompt_ids: list[int]
    ids: list[int]


class Generator:
    """Lets one policy answer.

    settings: batch_size, max_new_tokens, samples (answers to each prompt), temperature (0: greedy), top_p, seed.
    """

    def __init__(self, policy: Policy, settings: dict) -> None:
        self.policy, self.settings, self.limit = policy, settings, settings["max_new_tokens"]
        tokenizer, sampled = policy.tokenizer, settings["temperature"] > 0
        # The chat template's end of turn is what SFT trains; a base model may end with its tokenizer's own EOS instead,
        # and in no arm would an answer be better for running on after either.
        own_eos = tokenizer.convert_tokens_to_ids(policy.card["tokenizer"]["own_eos_token"])
        self.ends = {tokenizer.eos_token_id, own_eos} - {None}
        self.config = GenerationConfig(
            do_sample=sampled,
            temperature=settings["temperature"] if sampled else None,
            top_p=settings["top_p"] if sampled else None,
            top_k=0 if sampled else None,
            eos_token_id=sorted(self.ends),
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )

    def samples(self, prompts: Sequence[dict], begun: list[list[int]] | None = None) -> list[Sample]:
        """One sample for each answer to each prompt (id, prompt_ids), empty or as far as `begun`.

        Raises UserError if an answer could become longer than the model allows.
        """
        longest = max(len(row["prompt_ids"]) for row in prompts) + self.limit
        check_length(self.policy.model.config, longest, "generation.max_new_tokens")
        numbers = range(self.settings["samples"])
        found = [Sample(row["id"], number, row["prompt_ids"], []) for row in prompts for number in numbers]
        for sample, ids in zip(found, begun or [[]] * len(found), strict=True):
            sample.ids = list(ids)
        return found

    def is_open(self, sample: Sample) -> bool:
        """Whether an answer goes on."""
        return not sample.ids or (sample.ids[-1] not in self.ends and len(sample.ids) < self.limit)

    def rounds(self, samples: list[Sample]) -> Iterator[None]:
        """Extend the samples until all have ended; a yield after each batch of prompts of similar length."""
        size = self.settings["batch_size"]
        while open_samples := list(filter(self.is_open, samples)):
            # All open samples of a round are equally long, so the shortest are those that an interrupted round has
            # left, in whole batches.
            known = min(len(sample.ids) for sample in open_samples)
            waiting = [sample for sample in open_samples if len(sample.ids) == known]
            waiting.sort(key=lambda sample: (len(sample.prompt_ids), sample.prompt_id, sample.sample_idx))
            for start in range(0, len(waiting), size):
                self.extend(waiting[start : start + size], min(ROUND, self.limit - known))
                yield

    def extend(self, samples: list[Sample], tokens: int) -> None:
        """Add up to `tokens` new tokens to each of one left-padded batch."""
        rows = [sample.prompt_ids + sample.ids for sample in samples]
        model, runs = self.policy.model, decoding.runs(self.policy.model)
        shared = decoding.shared_beginning(rows, model.config) if runs else 0
        ids, mask = padded(rows, shared, self.policy.tokenizer.pad_token_id, self.policy.device)
        first = [self.settings["seed"], samples[0].prompt_id, samples[0].sample_idx, len(samples[0].ids)]
        torch.manual_seed(int(sha256_bytes(canonical_json(first).encode())[:15], 16))
        half = torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self.policy.dtype == torch.bfloat16)
        out_of_memory = naming_the_cure("generation.batch_size", self.settings["batch_size"])
        with torch.inference_mode(), half, out_of_memory, decoding.grouped(model):
            room = ids.shape[1] + tokens
            cache = decoding.read(model, ids, mask, shared, room) if runs else None
            given = {stack.CACHE: cache} if cache else {}
            while samples and ids.shape[1] < room:
                self.config.max_new_tokens = min(STEP, room - ids.shape[1])
                extended = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=self.config,
                    stopping_criteria=[_Leaving(self.ends, len(samples), ids.device)],
                    **given,
                )
                new = extended[:, ids.shape[1] :]
                for sample, row in zip(samples, new.tolist(), strict=True):
                    self.add(sample, row)
                staying = [place for place, sample in enumerate(samples) if self.is_open(sample)]
                places = torch.tensor(staying, dtype=torch.int64, device=ids.device)
                if cache and len(staying) < len(samples):
                    cache.take(places)
                ids, mask = extended[places], torch.cat([mask, torch.ones_like(new)], dim=1)[places]
                samples = [samples[place] for place in staying]

    def add(self, sample: Sample, new: list[int]) -> None:
        """Add `new` tokens to one answer, none after its end."""
        sample.ids += new[: next((place for place, token in enumerate(new, start=1) if token in self.ends), len(new))]

    def outcome(self, sample: Sample) -> dict:
        """text, n_tokens (the end included) and status of a sample: ok, empty, or truncated (it did not end)."""
        text = self.policy.tokenizer.decode(sample.ids, skip_special_tokens=True).strip()
        status = "truncated" if sample.ids[-1] not in self.ends else "ok" if text else "empty"
        return {"text": text, "n_tokens": len(sample.ids), "status": status}


class _Leaving(StoppingCriteria):
    """Interrupts `generate` once so many of a batch's rows have ended that the others go faster without them."""

    def __init__(self, ends: set[int], rows: int, device: torch.device) -> None:
        self.ends = torch.tensor(sorted(ends), device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self.ended |= torch.isin(input_ids[:, -1], self.ends)
        return torch.full_like(self.ended, bool(self.ended.sum() >= LEAVING * len(self.ended)))


def padded(rows: list[list[int]], shared: int, pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (rows, tokens; int64): rows of one length, padded after the `shared` tokens of all."""
    longest = max(map(len, rows))
    ids = [row[:shared] + [pad_id] * (longest - len(row)) + row[shared:] for row in rows]
    mask = [[1] * shared + [0] * (longest - len(row)) + [1] * (len(row) - shared) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
