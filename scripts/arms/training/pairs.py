"""Pairs with their reference log-probabilities, as both engines of DPO take them."""

from __future__ import annotations

import torch

from arms.data.token_rows import TokenRows
from arms.scoring.logps import pair_batch


def with_reference(pairs: TokenRows, reference: dict[str, dict], loss_type: str) -> TokenRows:
    """The pairs with their reference log-probabilities: sums, and for IPO, whose loss is on means, per token."""
    found = [reference[name] for name in pairs.ids()]
    columns = {}
    for side in ("chosen", "rejected"):
        lengths = [row[f"{side}_tokens"] if loss_type == "ipo" else 1 for row in found]
        columns[f"reference_{side}_logps"] = [
            row[f"{side}_logp"] / length for row, length in zip(found, lengths, strict=True)
        ]
    return pairs.with_columns(**columns)


def collate(rows: list[dict], pad_id: int, forking: bool) -> dict:
    """One batch of pairs: their ids and tokens, and the reference log-probabilities that came with them."""
    return {
        "id": [row["id"] for row in rows],
        "pairs": pair_batch(rows, pad_id, forking),
        "tokens": sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows),
        "reference_chosen_logps": torch.tensor([row["reference_chosen_logps"] for row in rows]),
        "reference_rejected_logps": torch.tensor([row["reference_rejected_logps"] for row in rows]),
    }
