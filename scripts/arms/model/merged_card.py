"""The card (model.json) of merged weights: a base model's, whose source is another base and an adapter."""

from __future__ import annotations

MERGED = "merged"


def source_of(model_sha256: str, adapter_sha256: str | None) -> dict[str, str | None]:
    """What the card of merged weights says of their source."""
    return {"source": MERGED, "model_sha256": model_sha256, "adapter_sha256": adapter_sha256}


def merged_from(card: dict) -> dict[str, str]:
    """Of the card of merged weights, for arm.json of an adapter on them: base and adapter of the sum; else {}."""
    source = card["source"]
    if source.get("source") != MERGED:
        return {}
    return {"base_sha256": source["model_sha256"], "parent_sha256": source["adapter_sha256"]}
