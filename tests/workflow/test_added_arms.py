"""Arms of other objectives, added to a finished study: their own jobs run, and nothing of the study changes."""

import csv
import json
import shutil

import pytest
from conftest import results

ARMS = "[base, sft, sft_dpo, dpo_only, orpo_only, simpo_only, sft_kto]"
MORE = {"train_objective": 3, "mismatch_pairs": 1, "score_pairs": 3 + 1, "generate": 3, "grade": 3}
AGAIN = {"freeze_plan": 1, "check_parity": 1, "compare": 1, "plot": 1, "report": 1}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A finished study of the four arms at one seed."""
    from conftest import Clone

    made = Clone(tmp_path_factory.mktemp("added"))
    made.edit("config/smoke.yaml", "seeds: [1, 2]", "seeds: [1]")
    done = made.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    return made


def test_a_finished_study_trains_the_added_arms_only(four):
    before, stats = results(four.folder), four.folder / "results" / "smoke" / "stats"
    shutil.copytree(stats, four.folder / "before")
    four.edit("config/smoke.yaml", "seeds: [1]\n", f"seeds: [1]\narms: {ARMS}\n")
    assert four.planned() == {**MORE, **AGAIN}
    done = four.snakemake("--cores", "2", "--quiet", "rules")
    assert done.returncode == 0, done.stdout[-6000:]
    made = results(four.folder)
    of_all = ("stats/", "figures/", "parity", "plan.json", "report.html")
    changed = {name for name in before if made.get(name) != before[name]}
    assert {name for name in changed if not name.startswith(of_all)} == set()

    record = json.loads((four.folder / "results" / "smoke" / "plan.json").read_text())
    assert (record["exploratory"], record["changes"]) == (False, [])
    assert record["late"] == sorted(record["plan"]["additions"]) == ["C12", "C13", "C14", "C15", "C8", "C9"]
    was, found = (json.loads((at / "decision.json").read_text()) for at in (four.folder / "before", stats))
    assert {key: value for key, value in found.items() if key not in ("additions", "plan_sha256")} == {
        key: value for key, value in was.items() if key != "plan_sha256"
    }
    old, new = (list(csv.DictReader((at / "contrasts.csv").open())) for at in (four.folder / "before", stats))
    for row in (*old, *new):
        del row["plan_sha256"]
    assert new[: len(old)] == old, "C1 to C7 are what they were"
    assert {row["family"] for row in new[len(old) :]} <= {"additions", ""}

    parity = json.loads((four.folder / "results" / "smoke" / "parity.json").read_text())
    assert parity["objectives"] == ["kto", "orpo", "simpo"]
    assert parity["step0_loss"]["sft_kto-seed1"] == pytest.approx(0.5, abs=1e-4)
    page = (four.folder / "results" / "smoke" / "report.html").read_text()
    assert "Added arms: ORPO-only, SimPO-only, SFT→KTO." in page
    assert "with another objective, so they differ from the DPO arms in what is minimised" in page
    assert four.planned() == {}
    verified = four.snakemake("verify")
    assert verified.returncode == 0, verified.stdout[-3000:]
