"""How each item of the checklist (display/checklist.py) stands in one study, from what the report has read of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from display.words import listed


@dataclass(frozen=True)
class Records:
    """What the report has read. memory: what had to shrink, in words (`display.provenance.rung_words`)."""

    settings: dict
    decision: dict
    parity: dict
    audit: dict
    manifests: list[dict]
    memory: list[str] = field(default_factory=list)

    def of(self, *rules: str) -> list[dict]:
        """The manifests of some rules."""
        return [one for one in self.manifests if one["rule"] in rules]

    def alike(self, name: str) -> dict:
        """What was observed to be alike in a group of runs; {} without such a group."""
        return self.parity["alike"].get(name, {})


class Finding(NamedTuple):
    """How an item stands. good: None if nothing of it is on record."""

    good: bool | None
    words: str


TRAINING = ("train_sft", "train_dpo", "train_objective")
NOTHING = Finding(None, "not on record")


def count(number: int, one: str, several: str = "") -> str:
    """1 job, 2 jobs."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def pins(records: Records) -> Finding:
    """Versions found against the lock."""
    off = sorted({name for one in records.manifests for name in one.get("off_lock", {})})
    jobs = count(len(records.manifests), "job")
    return Finding(
        not off, f"{listed(off)} off the lock" if off else f"{jobs} of this page ran with the locked versions"
    )


def base(records: Records) -> Finding:
    """The model that all runs trained on."""
    sha = records.alike("every run").get("model_sha256")
    merged = len(records.parity.get("merged", {}))
    more = f"; what comes after SFT has it merged with the SFT adapter of its seed ({count(merged, 'model')})"
    return Finding(True, f"every trained run has the base {sha[:12]}…" + more * bool(merged)) if sha else NOTHING


def targets(records: Records) -> Finding:
    """LoRA's modules and how much of them is trained."""
    shared, asked = records.alike("every run"), records.settings["lora"]["target_modules"]
    if "trainable_parameters" not in shared:
        return NOTHING
    modules = asked if isinstance(asked, str) else ", ".join(asked)
    return Finding(shared["trainable_parameters"] > 0, f"{shared['trainable_parameters']:,} parameters of {modules}")


def tokens(records: Records) -> Finding:
    """The token files of the two stages."""
    sft, dpo = (records.alike(f"every {stage} run").get("tokens_sha256") for stage in ("sft", "dpo"))
    return Finding(True, f"one file a stage: SFT {sft[:12]}…, DPO {dpo[:12]}…") if sft and dpo else NOTHING


def padding(records: Records) -> Finding:
    """The tokens that pad and end; the card of the model is checked when it is fetched."""
    fetched = records.of("fetch_model")
    return Finding(True, "checked when the model was fetched") if fetched else NOTHING


def template(records: Records) -> Finding:
    """Whether prompts begin with BOS, and what the template does to them."""
    rows = [row for row in records.audit["rows"] if "tokens" in row]
    starts = {row["tokens"]["starts_with_bos"] for row in rows}
    if len(starts) != 1:
        return NOTHING if not starts else Finding(False, "some data sets begin with BOS, others do not")
    told = len({line for row in rows for line in row["tokens"].get("template", [])})
    words = f"prompts of {count(len(rows), 'data set')} begin {'with' if starts.pop() else 'without'} BOS"
    return Finding(True, words + (f"; {count(told, 'remark')} on the template, under Data" if told else ""))


def pairs(records: Records) -> Finding:
    """Pairs that were read, all of which have a difference."""
    return Finding(True, f"{records.audit['pairs']['rows']} training pairs, none without a difference")


def leakage(records: Records) -> Finding:
    """Held-out prompts in the training data."""
    gate, near = records.decision["gates"].get("no_leakage"), records.audit["near_duplicates"]
    words = (
        "no held-out prompt is a training prompt" if gate is not False else "scores of prompts that are not held out"
    )
    return Finding(gate, words + f"; {count(near, 'near duplicate')}")


def reference(records: Records) -> Finding:
    """Tables that DPO read: one for each adapter or model that a run started from."""
    runs = [one["inputs"] for one in records.of("train_dpo") if "reference" in one["inputs"]]
    if not runs:
        return NOTHING
    found = {(one["reference"]["sha256"], (one.get("start") or one.get("model", {})).get("sha256")) for one in runs}
    tables, starts = (set(column) for column in zip(*found, strict=True))
    words = f"{count(len(runs), 'DPO run')} from {count(len(starts), 'policy', 'policies')}"
    words += f" against {count(len(tables), 'table')}"
    return Finding(len(found) == len(tables) == len(starts), words)


def headroom(records: Records) -> Finding:
    """Models that are in memory beside the policy: none."""
    runs = records.of("train_dpo")
    peaks = [one["machine"].get("peak_gpu_mib") for one in runs]
    gpu = f"; peak {max(peaks)} MiB of GPU memory" if runs and None not in peaks else ""
    return Finding(True, f"no reference model in memory in {count(len(runs), 'DPO run')}{gpu}") if runs else NOTHING


def step0(records: Records) -> Finding:
    """The largest distance of a first loss from its closed form."""
    gates = [one["facts"]["step0"] for one in records.manifests if "step0" in one["facts"]]
    if not gates:
        return NOTHING
    worst = max(gate["loss_difference"] for gate in gates)
    closed = listed(sorted({f"{gate['closed_form']:.6f}" for gate in gates}))
    return Finding(True, f"{count(len(gates), 'run')} start at {closed}, off by {_at_most(worst)}")


def _at_most(value: float) -> str:
    """The next power of ten: the last digits of a loss are the processor's."""
    return "nothing" if value == 0 else f"less than 1e{math.floor(math.log10(value)) + 1}"


def moved(records: Records) -> Finding:
    """Runs whose adapters differ from one another."""
    runs = records.of(*TRAINING)
    weights = [one["outputs"]["weights"]["sha256"] for one in runs if "weights" in one["outputs"]]
    if not weights:
        return NOTHING
    different = len(set(weights)) == len(weights)
    return Finding(different, f"{len(weights)} adapters, {'no two' if different else 'some'} of them alike")


def merging(records: Records) -> Finding:
    """Precision of the base, and how SFT→DPO starts."""
    starts = {one["settings"].get("start") for one in records.of("train_dpo")} - {None}
    words = f"base in {records.settings['model'].get('precision', 'fp32')}" + ", never merged" * (
        "merged" not in starts
    )
    how = {"adapter": "goes on with the SFT adapter", "fresh": "stacks a fresh adapter on the SFT adapter"}
    how["merged"] = "starts from the merged SFT weights, on which its adapter belongs"
    return Finding(True, words + "".join(f"; SFT→DPO {how.get(start, start)}" for start in sorted(starts)))


def parity(records: Records) -> Finding:
    """Fields that were alike in all runs of a stage."""
    facts = {name for found in records.parity["alike"].values() for name in found}
    return Finding(True, f"{count(len(facts), 'observed fact')}, each alike in all runs that share it")


def dropout(records: Records) -> Finding:
    """The dropout in effect."""
    found = records.alike("every run").get("dropout")
    return NOTHING if found is None else Finding(True, f"{found:g} in every run")


def order(records: Records) -> Finding:
    """Orders of the batches that were compared between the arms of a seed."""
    groups = [name for name, found in records.parity["alike"].items() if "batch_order_sha256" in found]
    arms = "all arms on pairs" if "objectives" in records.parity else "both DPO arms"
    return Finding(True, f"alike in {arms} of {count(len(records.settings['seeds']), 'seed')}") if groups else NOTHING


def seeds(records: Records) -> Finding:
    """How many training seeds, and what claims are about."""
    number = len(records.settings["seeds"])
    scope = "recipe" if records.decision["primary_scope"] == "method" else "checkpoints at hand"
    return Finding(number > 1, f"{count(number, 'seed')}; claims are about the {scope}")


def seeded(records: Records) -> Finding:
    """Training runs whose manifest names their seed."""
    runs = records.of(*TRAINING)
    named = [seed for one in runs for seed in one.get("seeds", {}).values()]
    return Finding(True, f"{count(len(named), 'run')} of seeds {listed(sorted(set(named)))}") if named else NOTHING


def paired(records: Records) -> Finding:
    """How many hypotheses were tested, all on the same prompts."""
    families = records.decision["families"]
    return Finding(
        True, f"{sum(families.values())} paired tests; {families.get('primary', 0)} are primary, adjusted by Holm"
    )


def gate(name: str, passed: str, failed: str) -> Callable[[Records], Finding]:
    """The state of an item that a gate of the evaluation decides."""

    def state(records: Records) -> Finding:
        good = records.decision["gates"].get(name)
        return NOTHING if good is None else Finding(good, passed if good else failed)

    return state


def plan(records: Records) -> Finding:
    """Whether the analysis is the one on record."""
    good = records.decision["gates"].get("plan_hash")
    if good is None:
        return NOTHING
    later = records.decision["exploratory"]
    return Finding(
        good and not later, "on record before any score" if good and not later else "changed later: exploratory"
    )


def memory(records: Records) -> Finding:
    """What was probed, and what did not fit."""
    probes = records.of("probe_memory")
    if not probes:
        return Finding(True, "nothing was probed: no GPU was asked for")
    failed = sum(not rung["fits"] for one in probes for rung in one["facts"]["attempts"])
    words = f"{count(len(probes), 'stage')} probed, {count(failed, 'attempt')} ran out of memory"
    return Finding(True, words + "".join(f"; {line}" for line in records.memory))


def resumed(records: Records) -> Finding:
    """Runs that trained to their last step."""
    trained = len(records.of(*TRAINING))
    return (
        Finding(True, f"{count(trained, 'run')} trained to the last step, with finite losses") if trained else NOTHING
    )


def manifests(records: Records) -> Finding:
    """Manifests that this page was made from."""
    return Finding(True, f"{len(records.manifests)} were read for this page; `snakemake verify` re-hashes all")
