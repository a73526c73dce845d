"""The examples of config/README.md, "Your own data", through the public command, without a network."""

import json
import re
import subprocess

import pytest
import yaml

# Writes the repository's own rows as the examples describe them, in a folder; run where pyarrow is.
WRITE = """
import csv, json, os, sys
import pyarrow as pa, pyarrow.parquet as pq
names = ("sft", "preferences", "heldout_preferences")
rows = {name: list(map(json.loads, open(f"config/data/{name}.jsonl"))) for name in names}
chats = [{"id": row["id"], "messages": [{"role": "user", "content": row["prompt"]},
         {"role": "assistant", "content": row["completion"]}]} for row in rows["sft"]]
os.makedirs("chats")
for number, part in enumerate((chats[:100], chats[100:])):
    pq.write_table(pa.Table.from_pylist(part), f"chats/{number}.parquet")
snapshot = "hub/datasets--mine--preferences/snapshots/" + sys.argv[1]
os.makedirs(snapshot + "/data"), os.makedirs(snapshot + "/../../blobs")
pq.write_table(pa.Table.from_pylist(rows["preferences"]), snapshot + "/../../blobs/0")
os.symlink("../../../blobs/0", snapshot + "/data/train-00000-of-00001.parquet")
names = {"id": "number", "prompt": "question", "chosen": "better", "rejected": "worse"}
with open("ratings.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(names.values())
    writer.writerows([row[name] for name in names] for row in rows["heldout_preferences"])
"""
READ = """
import json, sys, pyarrow.parquet as pq
print(json.dumps([{key: row[key] for key in sys.argv[2:]} for row in pq.read_table(sys.argv[1]).to_pylist()]))
"""


def python(clone, *arguments):
    command = [str(clone.folder / ".envs/grade/bin/python"), "-c", *arguments]
    return subprocess.run(command, cwd=clone.folder, capture_output=True, text=True, check=True).stdout


def test_the_examples_of_your_own_data(clone):
    section = (clone.folder / "config/README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    config = yaml.safe_load((clone.folder / "config/smoke.yaml").read_text())
    for example in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL):
        config["data"] |= yaml.safe_load(example)["data"]
    assert {type(config["data"][name]) for name in ("sft", "pairs", "heldout_pairs")} == {str, dict}
    (clone.folder / "mine.yaml").write_text(yaml.safe_dump(config))
    python(clone, WRITE, config["data"]["pairs"]["revision"])
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(clone.folder / "hub")}
    done = clone.snakemake("--cores", "2", "--until", "check_data", config="mine.yaml", **offline)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "chats/: rows of layout 'messages'" in done.stdout
    for name, file in (("sft", "sft"), ("pairs", "preferences"), ("heldout_pairs", "heldout_preferences")):
        sides = ["completion"] if name == "sft" else ["chosen", "rejected"]
        own = [json.loads(line) for line in (clone.folder / f"config/data/{file}.jsonl").read_text().splitlines()]
        columns = ["id", "prompt", *sides]
        found = json.loads(python(clone, READ, f"results/smoke/data/{name}.parquet", *columns))
        assert found == [{key: row[key] for key in columns} for row in own]


GRADED = [
    {"prompt": "What is 6 times 7?", "grader": {"number": 42}},
    {"prompt": "Name the capital of France.", "grader": {"exact": ["Paris", "Paris."]}},
    {"prompt": "Is water wet? (A) yes (B) no", "grader": {"choice": "A", "of": "AB"}},
    {"prompt": "Write a JSON list.", "grader": {"json_schema": {"type": "array"}}},
    {"prompt": "Write something short.", "grader": {"python": "short", "most": 1000}},
    {"prompt": "Use no comma.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
]
OWN = "def short(prompt, answer, most):\n    return len(answer) <= most\n"


def test_graders_of_ones_own(clone):
    """Checked before anything trains; another function grades again, and generates nothing."""
    folder, target = clone.folder, "results/smoke/scores/part-base.manifest.json"
    prompts = "config/data/heldout_prompts.jsonl"
    (folder / prompts).write_text("".join(json.dumps(row) + "\n" for row in GRADED))
    done = clone.snakemake("--cores", "2", target)
    assert done.returncode != 0
    assert "'short' is a Python function; name its file in the config: data.graders: FILE.py" in done.stdout
    assert "generate" not in done.stdout.split("Job stats:")[1].split("heldout_prompts.jsonl")[1]
    clone.edit("config/smoke.yaml", f"{prompts}\n", f"{prompts}\n  graders: own.py\n")
    assert "data.graders: no such file: own.py" in clone.snakemake("--dry-run").stdout
    (folder / "own.py").write_text(OWN)
    done = clone.snakemake("--cores", "2", target)
    assert done.returncode == 0, done.stdout[-3000:]
    grades = "results/smoke/scores/metric=pass_rate/part-base.parquet"
    before = python(clone, READ, grades, "prompt_id", "value", "status")
    assert len(json.loads(before)) == 6
    (folder / "own.py").write_text(OWN.replace("<= most", "> most"))
    told = clone.snakemake("why", target).stdout
    assert re.findall(r"^(\w+).*: .*other content in own.py", told, re.MULTILINE) == ["check_data", "grade"], told
    done = clone.snakemake("--cores", "2", target)
    assert done.returncode == 0, done.stdout[-3000:]
    assert set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.MULTILINE)) == {"check_data", "grade"}


@pytest.mark.test_all("a whole study; every test plans one")
def test_a_study_without_heldout_prompts(clone):
    clone.edit("config/smoke.yaml", "  heldout_prompts: config/data/heldout_prompts.jsonl\n", "")
    done = clone.snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:]
    results = clone.folder / "results/smoke"
    assert {path.name for path in (results / "scores").iterdir() if path.is_dir()} == {
        "metric=pref_acc",
        "metric=logp_margin",
    }
    page = (results / "report.html").read_text()
    assert "Graded pass rate" not in page
    assert 'id="examples"' not in page
