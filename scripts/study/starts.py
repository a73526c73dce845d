"""What runs after SFT start from: the SFT adapter on the base, or both as one model (sft_dpo.start: merged)."""

from __future__ import annotations

from study.errors import ConfigError
from study.runs import Run

BASE = "<results>/model/model.json"
MERGED = "merged_"  # a split whose pairs are scored by the merged weights of a run, without an adapter
REFERENCES = ("train", "mismatched")  # the splits of which reference tables are made
# What a merge does to log-probabilities of SmolLM2-135M, and what SFT had done (nats per token; benchmarks/merging.py).
ERROR = {"int8": (0.084, 0.087), "nf4": (0.086, 0.089)}


class Starts:
    """The starts of one study's runs after SFT. config: the checked configuration."""

    def __init__(self, config: dict) -> None:
        self.merged, self.seeds = config["sft_dpo"]["start"] == "merged", config["seeds"]

    def base(self, run: str) -> str:
        """model.json of what a run's adapter lies on: the base, or the merged weights that its training starts from."""
        parent = Run.parse(run).parent
        return _merged(parent) if self.merged and parent and parent.arm == "sft" else BASE

    def adapter(self, run: str) -> list[str]:
        """arm.json of a run's adapter; the base has none."""
        return [] if run == "base" else [f"<results>/{run}/adapter/arm.json"]

    def model_of(self, wildcards) -> str:
        """model.json of the policy that scores a split of pairs."""
        if wildcards.split.startswith(MERGED):
            return _merged(Run.parse(wildcards.run))
        return self.base(wildcards.run)

    def adapter_of(self, wildcards) -> list[str]:
        """arm.json of that policy, if it is more than a model."""
        return [] if wildcards.split.startswith(MERGED) else self.adapter(wildcards.run)

    def pairs_of(self, wildcards) -> str:
        """The token ids of a split of pairs."""
        return f"<results>/tokens/{wildcards.split.removeprefix(MERGED)}_pairs.parquet"

    def model(self, wildcards) -> str:
        """model.json of what an arm trains its adapter on."""
        return self.base(str(_run(wildcards)))

    def start(self, wildcards) -> list[str]:
        """arm.json of the adapter that an arm's training goes on from; none if it trains a new one."""
        run = _run(wildcards)
        return self.adapter(str(run.parent)) if self.base(str(run)) == BASE else []

    def reference(self, wildcards, split: str = "train") -> str:
        """The table of what an arm starts from, which is its reference."""
        run = _run(wildcards)
        return f"<results>/{run.parent}/{MERGED if self.base(str(run)) != BASE else ''}{split}_logps.parquet"

    @property
    def splits(self) -> list[str]:
        """The splits that merged weights score: none where nothing is merged."""
        return [f"{MERGED}{split}" for split in REFERENCES if self.merged]

    @property
    def cards(self) -> list[str]:
        """model.json of each of the merged weights."""
        return [_merged(Run("sft", "", seed)) for seed in self.seeds if self.merged]

    @property
    def weights(self) -> list[str]:
        """The folders of merged weights, from the results' folder."""
        return [f"{Run('sft', '', seed)}/merged/weights" for seed in self.seeds if self.merged]


def _run(wildcards) -> Run:
    return Run(wildcards.arm, "", int(wildcards.seed))  # variants of one arm start alike


def _merged(run: Run | None) -> str:
    return f"<results>/{run}/merged/model.json"


def check_start(config: dict) -> None:
    """ConfigError if SFT→DPO is to start from merged weights of a quantised base."""
    precision = config["model"]["precision"]
    if config["sft_dpo"]["start"] == "merged" and precision in ERROR:
        moved, by_sft = ERROR[precision]
        raise ConfigError(
            f"sft_dpo.start: merged is not for model.precision {precision}: the sum of weights and adapter would be "
            f"rounded to {precision} again, which moved SmolLM2-135M by {moved} nats per token where SFT had moved it "
            f"by {by_sft}; set sft_dpo.start to fresh or adapter, or model.precision to bf16 or fp32"
        )
