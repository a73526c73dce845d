"""Rule check_parity: do the arms differ in nothing but where they start? Judged by what training observed.

    python scripts/check_parity.py --job '{"rule": "check_parity", "settings": {}}' --manifest ... \
        --observed results/demo/*/observed.json --parity results/demo/parity.json
"""

from __future__ import annotations

from collections import defaultdict

from arms.job.files import UserError, exit_with_message, read_json, write_json
from arms.job.manifest import Job
from arms.job.program import JobParser

# Alike in every run:
WORLD = (
    "model_sha256",
    "trainable_parameters",
    "trainable_dtypes",
    "frozen_dtypes",
    "compute_dtype",
    "dropout",
    "gradient_checkpointing",
    "processes",
    "max_length",
)
# Alike in all DPO runs, and in all SFT runs:
STAGE = (
    "tokens_sha256",
    "rows",
    "epochs",
    "batch_size",
    "micro_batch_size",
    "steps",
    "tokens_seen",
    "optimizer",
    "betas",
    "eps",
    "weight_decay",
    "learning_rate",
    "scheduler",
    "warmup_steps",
    "learning_rates_sha256",
    "max_grad_norm",
)
LOSS = ("engine", "beta", "loss_type", "label_smoothing", "f_divergence", "reference_free")  # alike in all DPO runs
ORDER = ("batch_order_sha256",)  # alike in the two DPO arms of a seed
PAIRS = ("tokens_sha256", "rows", "batch_size", "micro_batch_size")  # alike under every objective
# Alike in all runs of another objective (rule train_objective), beside STAGE:
OBJECTIVE = ("objective", "beta", "gamma", "desirable_weight", "undesirable_weight")
# Observed if there are several, if they are less than asked for, if it is not TRL, if it is not DPO.
SOMETIMES = ("processes", "max_length", "micro_batch_size", "engine", *OBJECTIVE)


def main() -> None:
    """Compare, and stop the study at the first difference."""
    parser = JobParser(__doc__)
    parser.input("observed", nargs="+", help="observed.json of every trained run")
    parser.output("parity", help="what was found alike, JSON (output)")
    args = parser.parse_args()
    job = Job(args)

    runs = {path: read_json(path) for path in args.observed}
    merged = merged_weights(runs)
    alike = compare(runs)
    adapters = {run["adapter_sha256"]: path for path, run in runs.items()}
    if len(adapters) < len(runs):
        raise UserError("two runs have the same adapter, byte for byte: their seeds or arms were not in effect")
    steps0 = {f"{run['arm']}-seed{run['seed']}": run["step0"]["loss"] for run in runs.values() if "step0" in run}
    objectives = sorted({run["objective"] for run in runs.values() if "objective" in run})
    more = ({"objectives": objectives} if objectives else {}) | ({"merged": merged} if merged else {})
    write_json(args.parity, {"alike": alike, "step0_loss": steps0, "runs": len(runs), **more})
    but = f"arm and seed, and in the objective ({', '.join(objectives)}, beside dpo)" if objectives else "arm and seed"
    but += "; what comes after SFT is on the merged SFT weights of its seed, as asked" * bool(merged)
    job.say(f"{len(runs)} runs differ in nothing but {but}; step-0 losses {sorted(set(steps0.values()))}")
    job.finish()


def merged_weights(runs: dict[str, dict]) -> dict[str, str]:
    """Checksum of the merged weights that runs after SFT start from, by the SFT run merged; {} if none was.

    UserError unless all runs after SFT start so, each from the SFT adapter of its seed.
    """
    adapters = {run["seed"]: run["adapter_sha256"] for run in runs.values() if run["arm"] == "sft"}
    after = {path: run for path, run in runs.items() if run["arm"].startswith("sft_")}
    if not any("base_sha256" in run for run in after.values()):
        return {}
    for path, run in after.items():
        if "base_sha256" not in run or run["parent_sha256"] != adapters.get(run["seed"]):
            raise UserError(
                f"{path}: this run does not start from the merged weights of base and SFT adapter of its seed "
                f"({run['seed']}), as every run after SFT must if one does; delete it and run the same command again"
            )
    return {f"sft-seed{run['seed']}": run["model_sha256"] for run in after.values()}


def compare(runs: dict[str, dict]) -> dict[str, dict]:
    """What each group of runs has in common, by name; UserError if they differ. runs: what was observed, by path.

    The base of a run on merged weights is the one that these are made of.
    """
    groups = defaultdict(list)
    merged = {path: run["model_sha256"] for path, run in runs.items() if "base_sha256" in run}
    runs = {path: {**run, "model_sha256": run["base_sha256"]} if path in merged else run for path, run in runs.items()}
    objectives = {run["objective"] for run in runs.values() if "objective" in run}
    for path, run in runs.items():
        stage = "sft" if run["arm"] == "sft" else run.get("objective", "dpo")
        groups["every run", WORLD].append(path)
        groups[f"every {stage} run", STAGE + {"sft": (), "dpo": LOSS}.get(stage, OBJECTIVE)].append(path)
        if path in merged:
            runs[path]["merged_sha256"] = merged[path]
            groups[f"every run on merged weights of seed {run['seed']}", ("merged_sha256",)].append(path)
        if stage == "dpo" and not objectives:
            groups[f"both DPO arms of seed {run['seed']}", ORDER].append(path)
        elif stage != "sft" and objectives:  # other objectives see the same pairs in the same order
            groups["every run on pairs", PAIRS].append(path)
            groups[f"every arm on pairs of seed {run['seed']}, {run['epochs']:g} epochs", ORDER].append(path)
    return {name: _require_alike(name, fields, paths, runs) for (name, fields), paths in groups.items()}


def _require_alike(name: str, fields: tuple[str, ...], paths: list[str], runs: dict) -> dict:
    """The common values of `fields`; UserError naming the first two runs that differ."""
    first = paths[0]
    observed = {path: {**dict.fromkeys(SOMETIMES), **runs[path]} for path in paths}
    for path in paths[1:]:
        for field in fields:
            if observed[path][field] != observed[first][field]:
                raise UserError(
                    f"{field} must be alike in {name}, but {first} has {observed[first][field]!r} and {path} has "
                    f"{observed[path][field]!r}: the comparison would be confounded. Delete both runs and run "
                    "the same command again; if it persists, their inputs were changed by hand"
                )
    return {field: observed[first][field] for field in fields if observed[first][field] is not None}


if __name__ == "__main__":
    exit_with_message(main)
