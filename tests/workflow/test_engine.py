"""Each reach into the inside of Snakemake and of its SLURM plugin (scripts/study), on the pinned versions."""

import asyncio
import json
import re

import snakemake_executor_plugin_slurm as plugin

from study import slurm


def test_another_version_of_snakemake_is_refused_unless_allowed(clone):
    clone.edit("scripts/study/engine.py", 'SNAKEMAKE = "9.27.1"', 'SNAKEMAKE = "9.99.0"')
    done = clone.snakemake("--dry-run")
    assert done.returncode != 0
    assert "snakemake 9.27.1 is installed, and this workflow reaches into the inside of 9.99.0" in done.stdout
    assert "Traceback" not in done.stdout
    clone.edit("config/smoke.yaml", "study: smoke", "study: smoke\nallow_off_lock: true")
    done = clone.snakemake("--dry-run")
    assert done.returncode == 0, done.stdout
    assert "allowed by allow_off_lock" in done.stdout


def test_only_commands_whose_every_target_reads_need_no_cores(clone):
    read = clone.snakemake("verify")
    assert "cores have to be specified" not in read.stdout
    both = clone.snakemake("verify", "results/smoke/report.html")
    assert both.returncode != 0
    assert "cores have to be specified" in both.stdout
    assert not (clone.folder / "results/smoke/model").exists()


def test_the_jobs_behind_the_report_are_those_that_snakemake_plans(clone):
    planned = clone.planned()
    clone.snakemake("verify")  # writes them down, then finds nothing made
    jobs = json.loads((clone.folder / ".snakemake/smoke.jobs.json").read_text())
    counts: dict[str, int] = {}
    for manifest, found in jobs.items():
        rule = found["job"]["rule"]
        counts[rule] = counts.get(rule, 0) + 1
        assert re.fullmatch(r"results/smoke/.*manifest\.json", manifest)
        assert found["outputs"], rule
        assert (clone.folder / found["lock"]).is_file()
    assert counts == planned


def test_a_cancelled_job_is_seen(monkeypatch):
    async def query_job_status(command, logger):
        return {"7": "CANCELLED by 1000", "8": "RUNNING"}, 0.1

    monkeypatch.setattr(plugin, "query_job_status", query_job_status)
    slurm.understand_cancelled()
    assert asyncio.run(plugin.query_job_status("sacct", None)) == ({"7": "CANCELLED", "8": "RUNNING"}, 0.1)


def test_the_plugin_looks_its_query_up_where_it_is_replaced():
    """Its executor must call the module's name, or the replacement would change nothing."""
    names = plugin.Executor.check_active_jobs.__code__.co_names
    assert "query_job_status" in names
    assert plugin.Executor.check_active_jobs.__globals__ is vars(plugin)
