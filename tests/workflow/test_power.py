"""`snakemake power`, and the line that a dry run says of a plan that will seldom decide, through the public command."""

SENTENCE = "2 seeds x 120 prompts end in GO in "


def warnings(done):
    return [line for line in done.stdout.splitlines() if line.startswith("power: ")]


def test_a_plan_that_cannot_decide_says_so_once_before_training(clone):
    said = warnings(clone.snakemake("--dry-run"))
    assert len(said) == 1
    assert said[0].startswith("power: without statistics.margins.pref_acc this study can never end in GO")
    clone.edit("config/smoke.yaml", "generation:\n", "statistics:\n  margins: {pref_acc: 0.05}\ngeneration:\n")
    said = warnings(clone.snakemake("--dry-run"))
    assert len(said) == 1
    assert said[0].startswith("power: 2 seeds x 120 held-out rows decide (GO or NO-GO) in ")
    assert "`snakemake power` shows what decides more often; statistics.power.floor: 0 accepts that" in said[0]
    clone.edit("config/smoke.yaml", "  margins:", "  power: {floor: 0}\n  margins:")
    assert warnings(clone.snakemake("--dry-run")) == []
    clone.edit("config/smoke.yaml", "  power: {floor: 0}\n", "  power: {difference: 0.4, cost_difference: 0.2}\n")
    assert warnings(clone.snakemake("--dry-run")) == [], "a plan that decides has nothing to say"


def test_power_needs_no_cores_no_model_and_no_scores(clone):
    done = clone.snakemake("power")
    assert done.returncode != 0
    assert "the plan has no margin of pref_acc" in done.stdout
    clone.edit("config/smoke.yaml", "generation:\n", "statistics:\n  margins: {pref_acc: 0.05}\ngeneration:\n")
    done = clone.snakemake("power")
    assert done.returncode == 0, done.stdout
    assert SENTENCE in done.stdout
    assert warnings(done) == []
    folder = clone.folder / "results" / "smoke-power"
    assert {path.name for path in folder.iterdir()} == {
        f"power.{one}" for one in ("md", "csv", "parquet", "png", "svg")
    }
    assert SENTENCE in (folder / "power.md").read_text()
    assert not (clone.folder / "results" / "smoke" / "model").exists()
