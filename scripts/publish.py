"""Rule publish: a folder for each adapter as the Hugging Face hub takes it. Nothing is uploaded.

    python scripts/publish.py --job '{"rule": "publish", "settings": {...}}' --report results/demo/report.html \
        --model results/demo/model/model.json --decision results/demo/stats/decision.json \
        --means results/demo/stats/arm_means.csv --contrasts results/demo/stats/contrasts.csv \
        --data results/demo/data/sft.manifest.json ... --training results/demo/sft-seed1/train.manifest.json ... \
        --adapters results/demo/sft-seed1/adapter/adapter_model.safetensors ... \
        --configs results/demo/sft-seed1/adapter/adapter_config.json ... --template scripts/model_card.md.j2 \
        --cards results/demo-publish/sft-seed1/README.md ... --manifest results/demo-publish.manifest.json

Each folder holds adapter_model.safetensors (the same bytes), adapter_config.json (with the base model's id on the hub),
README.md (the model card, its metadata as the hub expects them) and training.json (the manifest of the training job,
without names of machines and folders). `peft.PeftModel.from_pretrained(base, FOLDER)` loads it.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from arms.job.files import UserError, atomic_path, exit_with_message, read_json, sha256_file, write_json
from arms.job.manifest import Job, flat, read_manifest
from arms.job.program import JobParser
from display.provenance import device_words, model_words, without_paths
from display.words import interval, number, recipe_words, spelt_out
from study.runs import Run
from study.vocabulary import ALL_ARMS, ALL_CONTRASTS

SIDES = {"logp_margin": "heldout_pairs", "pref_acc": "heldout_pairs", "pass_rate": "heldout_prompts"}
SHOWN = ("python", "torch", "transformers", "trl", "peft", "accelerate")


def main() -> None:
    """Make each folder; the card last, and only if huggingface_hub reads back what was meant."""
    parser = JobParser(__doc__)
    parser.input("report", help="the page, made last: with it the study is whole")
    parser.input("model", help="model.json of the base model")
    parser.input("merged", nargs="*", default=[], help="model.json of merged weights that adapters lie on")
    parser.input("decision", help="what the study decided")
    parser.input("means", nargs="+", help="arm_means.csv of each recipe")
    parser.input("contrasts", help="contrasts.csv of the study's own recipe")
    parser.input("data", nargs="+", help="manifests of the checks of the data")
    parser.input("training", nargs="+", help="train.manifest.json of each run")
    parser.input("adapters", nargs="+", help="adapter_model.safetensors of each run")
    parser.input("configs", nargs="+", help="adapter_config.json of each run")
    parser.input("template", help="the card as a Jinja template")
    parser.output("cards", nargs="+", help="README.md of each folder (output)")
    parser.output("weights", nargs="+", help="adapter_model.safetensors of each folder (output)")
    parser.output("settings", nargs="+", help="adapter_config.json of each folder (output)")
    parser.output("records", nargs="+", help="training.json of each folder (output)")
    args = parser.parse_args()
    job = Job(args)

    study = Published(job.settings, args)
    for place, card in enumerate(args.cards):
        run = Run.parse(Path(card).parent.name)
        training = read_manifest(args.training[place])
        with atomic_path(args.weights[place]) as temporary:
            shutil.copyfile(args.adapters[place], temporary)
        base, revision = (None, None) if study.on(training) else (study.base, study.revision)
        config = read_json(args.configs[place]) | {"base_model_name_or_path": base, "revision": revision}
        write_json(args.settings[place], config)
        write_json(args.records[place], without_machine(training))
        sums = {name: sha256_file(path[place]) for name, path in (("adapter", args.weights), ("config", args.settings))}
        write_card(card, args.template, study.metadata(run), study.words(run, training, sums))
    if not study.base:
        job.say("no base model on the hub is named (publish.base_model), so neither do the folders name one")
    job.say(f"{len(args.cards)} adapters in {Path(args.cards[0]).parents[1]}; nothing was uploaded")
    job.finish(base_model=study.base, adapters=len(args.cards))


class Published:
    """What the cards of one study say. base, revision: id and commit of its model on the hub, or None."""

    def __init__(self, settings: dict, args: Any) -> None:
        """settings: study, seeds, model, tokens, publish, hub, metrics (study.settings.Settings.publish)."""
        self.settings, self.model = settings, read_json(args.model)
        source, asked = settings["model"], settings["publish"]
        self.base = asked.get("base_model") or (source["id"] if source["source"] == "hub" else None)
        self.revision = source["revision"] if source["source"] == "hub" and self.base == source["id"] else None
        self.decision = read_json(args.decision)
        self.means = [row for path in args.means for row in table(path) if row["group_kind"] == "overall"]
        self.contrasts = [row for row in table(args.contrasts) if row["group_kind"] == "overall"]
        self.data = [read_manifest(path) for path in args.data]
        self.merged = {card["sha256"]: card for card in map(read_json, args.merged)}

    def on(self, training: dict) -> dict | None:
        """The card of the merged weights that a run's adapter lies on; None: it lies on the base."""
        return self.merged.get(training["facts"]["model_sha256"])

    def metadata(self, run: Run) -> Any:
        """The head of a card, as huggingface_hub's ModelCardData."""
        from huggingface_hub import EvalResult, ModelCardData

        asked = self.settings["publish"]
        hub = [self.settings["hub"][name]["hub"] for name in trained_on(run) if name in self.settings["hub"]]
        named = {name: asked[name] for name in ("license", "language") if name in asked}
        results = [
            EvalResult(
                task_type="text-generation",
                task_name="Text generation",
                dataset_type=self.judged_on(row["metric"]),
                dataset_name=f"{self.judged_on(row['metric'])} of study {self.settings['study']}",
                dataset_split="held-out",
                metric_type=row["metric"],
                metric_name=spelt_out(row["metric"]),
                metric_value=round(float(row["mean"]), 4),
                metric_args={"ci_95": [round(float(row[end]), 4) for end in ("ci_lo", "ci_hi")], "n": int(row["n"])},
            )
            for row in self.rows(run.arm, run.seed)
        ]
        return ModelCardData(
            base_model=self.base,
            library_name="peft",
            pipeline_tag="text-generation",
            tags=["lora", "trl", *(["sft"] if "sft" in run.arm else []), *([run.stage] if run.stage != "sft" else [])],
            datasets=list(dict.fromkeys(hub)) or None,
            model_name=f"{self.settings['study']}-{run}",
            eval_results=results,
            **named,
        )

    def judged_on(self, metric: str) -> str:
        """The data set or task of a metric."""
        return SIDES.get(metric) or metric.partition(".")[0]

    def is_told(self, row: dict) -> bool:
        """Whether a card tells a contrast: primary ones, and those of judges, who give an arm by itself no mean."""
        return row["family"] == "primary" or self.settings["metrics"][row["metric"]]["kind"] == "pairwise"

    def rows(self, arm: str, seed: int | None) -> list[dict]:
        """The rows of arm_means.csv of one run (seed) or of an arm over all its seeds (None), one for each metric."""
        level = "pooled" if seed is None else "seed"
        own = [row for row in self.means if (row["arm"], row["level"]) == (arm, level)]
        return [row for row in own if seed is None or int(row["train_seed"]) == seed]

    def words(self, run: Run, training: dict, sums: dict[str, str]) -> dict[str, Any]:
        """What the template shows of a run."""
        by = {name: {row["metric"]: row for row in self.rows(*key)} for name, key in {
            "run": (run.arm, run.seed), "arm": (run.arm, None), "base": ("base", None),
        }.items()}  # fmt: skip
        metrics = self.settings["metrics"]
        results = [
            {
                "metric": plain(spelt_out(metric)),
                "n": row["n"],
                **{name: shown(found[metric], metrics[metric]) for name, found in by.items()},
            }
            for metric, row in by["run"].items()
        ]
        claims = (
            [row for row in self.contrasts if run.arm in ALL_CONTRASTS[row["contrast"]][0]] if not run.variant else []
        )
        return {
            "study": self.settings["study"],
            "name": f"{ALL_ARMS[run.arm]}{', ' * bool(run.variant)}{recipe_words(run.variant[1:])}, seed {run.seed}",
            "run": run,
            "arm": ALL_ARMS[run.arm],
            "parent": ALL_ARMS[run.parent.arm] if run.parent else None,
            "base": self.base,
            "revision": self.revision,
            "from_hub": self.settings["model"]["source"] == "hub",
            "model": plain(model_words(self.settings["model"])),
            "model_sha256": self.model["sha256"],
            "merged": self.on(training),
            "tokens": self.settings["tokens"],
            "seeds": self.settings["seeds"],
            "data": self.data_rows(run),
            "recipe": [(key, plain(value)) for key, value in flat(without_paths(training["settings"])).items()],
            "results": results,
            "claims": [plain(spelt_out(row["words"])) for row in claims if self.is_told(row)],
            "headline": plain(self.decision["headline"]),
            "banner": plain(self.decision["banner"] or ""),
            "training": training,
            "device": device_words(training["machine"]),
            "packages": {name: training["versions"][name] for name in SHOWN if name in training["versions"]},
            "sums": sums,
        }

    def data_rows(self, run: Run) -> list[dict]:
        """Each data set with what it was for, and its files' names and checksums."""
        found = []
        for manifest in self.data:
            name = manifest["wildcards"]["data"]
            use = "trained on" if name in trained_on(run) else "held out" if name.startswith("heldout") else "not used"
            source = self.settings["hub"].get(name)
            hub = f"{source['hub']} at {source['revision']}" if source else None
            files = [(Path(entry["path"]).name, entry["sha256"]) for entry in manifest["inputs"].values()]
            found.append({"name": name, "use": use, "hub": hub and plain(hub), "files": files})
        return found


def trained_on(run: Run) -> tuple[str, ...]:
    """The data sets that a run and the run it starts from were trained on."""
    return ("sft",) * ("sft" in run.arm) + ("pairs",) * (run.stage != "sft")


def shown(row: dict[str, str], metric: dict) -> str:
    """A mean with its interval."""
    factor = 100.0 if metric["kind"] in ("binary", "pairwise") else 1.0
    low, high = float(row["ci_lo"] or "nan"), float(row["ci_hi"] or "nan")
    unit = "%" if factor == 100 else ""
    return f"{number(float(row['mean']), factor, signed=False)}{unit} ({interval(low, high, factor, signed=False)})"


def plain(value: object) -> str:
    """A text that is no markup in Markdown, and one line."""
    text = " ".join(str(value).split())
    return "".join(f"&#{ord(sign)};" if sign in "<>&`|[]*" else sign for sign in text)


def table(path: str) -> list[dict[str, str]]:
    """The rows of a csv file of the statistics."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_machine(manifest: dict) -> dict:
    """A manifest that names no machine and no folder outside the study."""
    machine = {
        name: value for name, value in manifest["machine"].items() if name not in ("host", "slurm_job", "system")
    }
    return without_paths({**manifest, "machine": machine})  # type: ignore[return-value]


def write_card(path: str, template: str, metadata: Any, words: dict[str, Any]) -> None:
    """Write a model card; UserError unless huggingface_hub reads the same metadata from it."""
    from huggingface_hub import ModelCard

    card = ModelCard.from_template(metadata, template_path=template, **words)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(str(card), encoding="utf-8")
        read = ModelCard.load(temporary, ignore_metadata_errors=False)
        if read.data.to_dict() != metadata.to_dict():
            raise UserError(f"{path}: huggingface_hub reads other metadata than were meant; not written")


if __name__ == "__main__":
    exit_with_message(main)
