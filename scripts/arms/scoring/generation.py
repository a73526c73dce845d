"""Answers of a policy to prompts.

They grow in rounds, so that a batch does not go on computing for answers that have long ended. Each batch has a seed of
its own, which makes its draws independent of the batches before it: a job may go on after any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig

from arms.job.files import canonical_json, sha256_bytes
from arms.job.out_of_memory import naming_the_cure
from arms.model.fit import check_length

if TYPE_CHECKING:
    from arms.scoring.policy import Policy

ROUND = 32  # new tokens before answers that have ended leave their batch


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
        known = [sample.prompt_ids + sample.ids for sample in samples]
        longest, pad_id, device = max(map(len, known)), self.policy.tokenizer.pad_token_id, self.policy.device
        ids = [[pad_id] * (longest - len(row)) + row for row in known]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in known]
        self.config.max_new_tokens = tokens
        first = [self.settings["seed"], samples[0].prompt_id, samples[0].sample_idx, len(samples[0].ids)]
        torch.manual_seed(int(sha256_bytes(canonical_json(first).encode())[:15], 16))
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.policy.dtype == torch.bfloat16)
        with torch.inference_mode(), autocast, naming_the_cure("generation.batch_size", self.settings["batch_size"]):
            extended = self.policy.model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=self.config,
            )
        for sample, new in zip(samples, extended[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(new, start=1) if token in self.ends), len(new))
            sample.ids += new[:end]

    def outcome(self, sample: Sample) -> dict:
        """text, n_tokens (the end included) and status of a sample: ok, empty, or truncated (it did not end)."""
        text = self.policy.tokenizer.decode(sample.ids, skip_special_tokens=True).strip()
        status = "truncated" if sample.ids[-1] not in self.ends else "ok" if text else "empty"
        return {"text": text, "n_tokens": len(sample.ids), "status": status}
