"""SFT on pre-tokenised rows: TRL's SFTTrainer, with its text handling taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from arms.data.turns import CONTEXT
from arms.scoring.logps import SHARED, completion_batch, segment_logps
from arms.training.checkpoints import Resumable
from arms.training.data_parallel import DataParallel
from arms.training.trainers import SFTTrainer, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class CompletionSFTTrainer(Resumable, DataParallel, SFTTrainer):
    """Trains the mean negative log-likelihood of completion tokens (EOS included) of rows that are already ids."""

    def __init__(self, *, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, **kwargs) -> None:
        self.dtype = dtype
        super().__init__(**named(tokenizer=tokenizer), **kwargs)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        """Leave the rows alone: TRL would render, tokenise and truncate them in its own way."""
        return dataset

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the batch's completion tokens of -log pi, in nats."""
        sums, counts = segment_logps(model, inputs["rows"], SHARED, self.dtype)
        loss = -sums.sum() / counts.sum()
        tokens = int(inputs["rows"]["attention_mask"].sum())
        self.curves.add(self.state.global_step, inputs["id"], tokens, loss=loss.item())
        return (loss, {}) if return_outputs else loss


def collate(pad_id: int):
    """Collator: token rows (id, prompt_ids, completion_ids) -> one padded batch that keeps the row ids.

    A row's context_spans (`arms.data.turns`), places in its completion, are not trained.
    """

    def batch(rows: list[dict]) -> dict:
        sequences = [(row["prompt_ids"], row["completion_ids"]) for row in rows]
        padded = completion_batch(sequences, pad_id)
        for number, row in enumerate(rows):
            spans, start = iter(row.get(CONTEXT, [])), len(row["prompt_ids"])
            for first, end in zip(spans, spans, strict=True):
                padded["segment"][number, start + first : start + end] = 0
        return {"id": [row["id"] for row in rows], "rows": padded}

    return batch
