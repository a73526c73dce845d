"""`snakemake -n` anywhere: the exact jobs, with no conda, no network and nothing installed but the driver."""

import re

import pytest

SMOKE_JOBS = {
    "freeze_plan": 1,
    "fetch_model": 1,
    "check_data": 4,
    "list_heldout": 1,
    "tokenize_data": 4,
    "train_sft": 2,
    "train_dpo": 4,
    "check_parity": 1,
    "score_pairs": 10,
    "generate": 7,
    "grade": 7,
    "compare": 1,
    "plot": 1,
    "report": 1,
}
DEMO_JOBS = {**SMOKE_JOBS, "train_sft": 3, "train_dpo": 6, "score_pairs": 14, "generate": 10, "grade": 10}


@pytest.mark.parametrize(("config", "jobs"), [("config/smoke.yaml", SMOKE_JOBS), (None, DEMO_JOBS)])
def test_a_fresh_clone_plans_every_job(clone, config, jobs):
    (clone.folder / ".envs").unlink()
    assert clone.planned(config=config) == jobs


@pytest.mark.parametrize("without", ["", "  heldout_prompts: config/data/heldout_prompts.jsonl\n"])
def test_every_program_is_given_the_files_that_it_requires(clone, without):
    clone.edit("config/smoke.yaml", without, "")
    commands = re.findall(r"scripts/(\w+)\.py'? (--.*)", clone.snakemake("--dry-run", "--printshellcmds").stdout)
    assert {rule for rule, _ in commands} == {rule for rule in SMOKE_JOBS if not (without and rule == "generate")}
    for rule, command in commands:
        source = (clone.folder / "scripts" / f"{rule}.py").read_text()
        for name in re.findall(r'parser\.(?:input|output)\("(\w+)"(?!.*default=)', source):
            assert f"--{name.replace('_', '-')} " in command, (rule, name)


def test_without_heldout_prompts_nothing_is_generated(clone):
    clone.edit("config/smoke.yaml", "  heldout_prompts: config/data/heldout_prompts.jsonl\n", "")
    fewer = {"check_data": 3, "tokenize_data": 3}
    assert clone.planned() == {name: n for name, n in {**SMOKE_JOBS, **fewer}.items() if name != "generate"}


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_the_configurations_for_one_gpu_plan_without_the_model(clone, size):
    (clone.folder / ".envs").unlink()
    planned = clone.planned(config=f"config/qwen2.5-{size}.yaml")
    assert [planned[rule] for rule in ("fetch_model", "train_sft", "train_dpo", "generate")] == [1, 5, 10, 16]
    assert (planned["plan_memory"], planned["probe_memory"]) == (1, 2)
    assert clone.planned("--cores", "1", "plan_memory", config=f"config/qwen2.5-{size}.yaml") == {
        "fetch_model": 1,
        "plan_memory": 1,
    }


ADDED = "[base, sft, sft_dpo, dpo_only, orpo_only, kto_only, simpo_only, sft_kto]"


def test_added_arms_add_their_jobs(clone):
    clone.edit("config/smoke.yaml", "seeds: [1, 2]\n", f"seeds: [1, 2]\narms: {ADDED}\n")
    more = {"train_objective": 8, "mismatch_pairs": 1, "score_pairs": 10 + 8 + 3, "generate": 15, "grade": 15}
    assert clone.planned() == {**SMOKE_JOBS, **more}
    clone.edit("config/smoke.yaml", ADDED, "[base, sft, sft_dpo, dpo_only, orpo_only, simpo_only]")
    few = {"train_objective": 4, "score_pairs": 14, "generate": 11, "grade": 11}
    assert clone.planned() == {**SMOKE_JOBS, **few}, "without KTO nothing is mismatched"
    clone.edit("config/smoke.yaml", ", orpo_only, simpo_only]", "]")
    assert clone.planned() == SMOKE_JOBS


def test_lists_of_the_recipe_add_variants_that_share_everything_before_dpo(clone):
    clone.edit("config/smoke.yaml", "dpo:\n", "dpo:\n  beta: [0.1, 0.3]\n  loss_type: [sigmoid, ipo]\n")
    planned = clone.planned()
    more = {"train_dpo": 16, "check_parity": 4, "score_pairs": 22, "generate": 19, "grade": 19, "compare": 4}
    assert planned == {**SMOKE_JOBS, **more}
    done = clone.snakemake("--dry-run")
    assert "results/smoke/sft_dpo-beta~0.3-loss_type~ipo-seed2/adapter/arm.json" in done.stdout


def test_a_real_run_without_environments_says_what_to_do(clone):
    (clone.folder / ".envs").unlink()
    done = clone.snakemake("--cores", "1")
    assert done.returncode != 0
    assert "run `make setup`" in done.stdout
    assert not (clone.folder / "results" / "smoke" / "model").exists()
