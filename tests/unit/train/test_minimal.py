"""The plain PyTorch loop (dpo.engine: minimal) trains what TRL trains: each loss, each gate, each resumption."""

import json
import sys

import pandas
import pyarrow.parquet
import pytest
import torch
import yaml
from conftest import DPO, LOCK, LORA, ROOT, training_flags
from test_interrupt import start, stopped
from test_resume import FROM_SFT, RESULTS, kill_after

from arms.scoring.tables import KEY
from arms.stacks import NAME
from arms.training.dpo import step0_loss
from arms.training.gates import reference_free_start
from arms.training.minimal import LOSSES

TOLERANCE = 2e-5
WHOLE_BATCH = {"micro_batch_size": 4}  # what aot asks for, which sorts the pairs of one forward pass
CASES = {
    "sigmoid": {},
    "sigmoid, label smoothing, cosine": {"label_smoothing": 0.1, "scheduler": "cosine", "warmup_ratio": 0.1},
    "robust, linear": {"loss_type": "robust", "label_smoothing": 0.1, "scheduler": "linear", "warmup_ratio": 0.25},
    "hinge, warm-up": {"loss_type": "hinge", "beta": 2.0, "scheduler": "constant_with_warmup", "warmup_ratio": 0.2},
    "ipo, weight decay": {"loss_type": "ipo", "beta": 1.0, "weight_decay": 0.1},
    "exo_pair": {"loss_type": "exo_pair"},
    "nca_pair, checkpointing": {"loss_type": "nca_pair", "gradient_checkpointing": True},
    "sppo_hard, clipped": {"loss_type": "sppo_hard", "learning_rate": 1e-4, "max_grad_norm": 0.1},
    "aot": {"loss_type": "aot", "label_smoothing": 0.1, **WHOLE_BATCH},
    "aot_pair": {"loss_type": "aot_pair", **WHOLE_BATCH},
    "reference_free": {"loss_type": "reference_free", "beta": 0.05},
}


def settings(engine=None, **changes):
    """Those of a job of 24 steps; engine None is TRL."""
    recipe = {**DPO["dpo"], "epochs": 4, "learning_rate": 3e-3, "beta": 0.5, **changes}
    return {**DPO, "dpo": {**recipe, "engine": engine} if engine else recipe}


def both(study, label, arm, **changes):
    """The folders of the same job, trained by each engine."""
    flags = ["sft.table.parquet", "--start", "sft/arm.json"] if arm == "sft_dpo" else ["base.parquet"]
    for engine in (None, "minimal"):
        study.train_dpo(f"{label}-{engine}", *flags, settings=settings(engine, **changes))
    return [study.folder / f"{label}-{engine}" for engine in (None, "minimal")]


@pytest.mark.parametrize("case", CASES)
def test_every_step_has_the_loss_of_the_trl_engine(study, case):
    arm = "dpo_only" if case.startswith(("robust", "exo")) else "sft_dpo"
    stock, plain = both(study, f"engines, {case}", arm, **CASES[case])
    theirs, ours = (pandas.read_parquet(folder / "curves.parquet") for folder in (stock, plain))
    assert list(ours) == list(theirs)
    assert len(ours) == 24
    each = ours["margin"].groupby(ours["step"] // 6).mean() if case == "reference_free" else ours["margin"]
    assert (
        each.iloc[-1] - each.iloc[0]
    ) > 0.01  # the policy really moved; without a reference pairs differ from the start
    for column in ours:
        assert ours[column].to_numpy() == pytest.approx(theirs[column].to_numpy(), abs=TOLERANCE, rel=1e-5), column


def test_on_one_thread_the_engines_leave_the_same_bytes(study):
    stock, plain = both(study, "bytes", "sft_dpo", scheduler="cosine", warmup_ratio=0.1)
    for name in ("adapter_model.safetensors", "adapter_config.json", "arm.json", "curves.parquet"):
        assert (plain / name).read_bytes() == (stock / name).read_bytes(), name
    theirs, ours = (study.read(f"{folder.name}/observed.json") for folder in (stock, plain))
    assert ours == {**theirs, "engine": "minimal"}  # loss, rate, order of rows, tokens: all that parity compares


def test_in_bfloat16_too(study):
    flags = ["--model", "model/model.json", "--tokens", "pairs.parquet", "--table", "bf16.parquet"]
    bf16 = {"precision": "bf16"}
    study.run("score_pairs", {**bf16, "cpu_instructions": "native", "batch_size": 4}, *flags)
    curves = []
    for engine in (None, "minimal"):
        study.train_dpo(f"bf16-{engine}", "bf16.parquet", settings={**settings(engine), **bf16})
        curves.append(pandas.read_parquet(study.folder / f"bf16-{engine}" / "curves.parquet"))
    assert curves[1]["loss"].to_numpy() == pytest.approx(curves[0]["loss"].to_numpy(), abs=TOLERANCE)


# As in a Python in which neither can be imported.
WITHOUT = """
import runpy, sys
sys.modules["trl"] = sys.modules["transformers.trainer"] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, {scripts!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_neither_trl_nor_transformers_trainer_is_needed(study, tmp_path):
    program = tmp_path / "without.py"
    program.write_text(WITHOUT.format(scripts=str(ROOT / "scripts")))
    job = {"rule": "train_dpo", "wildcards": {"arm": "sft_dpo", "seed": "1"}, "code": ""}
    command = [str(ROOT / "scripts/train_dpo.py"), "--manifest", "w.json", "--lock", str(LOCK)]
    command += [*training_flags("without trl"), "--tokens", "pairs.parquet", *FROM_SFT]
    done = {}
    for engine in ("minimal", "trl"):
        told = json.dumps({**job, "settings": settings(engine, epochs=1)})
        done[engine] = study.start([sys.executable, str(program), *command, "--job", told])
    assert done["minimal"].returncode == 0, done["minimal"].stderr
    needed = {"pinned": "trl", "current": "transformers.trainer"}[NAME]
    assert f"import of {needed} halted" in done["trl"].stderr  # the other engine cannot do without


def test_killed_five_times_it_ends_with_the_bytes_of_a_run_that_was_not(study):
    """With dropout, whose draws a checkpoint has to bring along, in the middle of an epoch and at its end."""
    job = {**settings("minimal", scheduler="cosine", warmup_ratio=0.1), "lora": {**LORA, "dropout": 0.1}}
    data, wildcards = ["--tokens", "pairs.parquet", *FROM_SFT], {"arm": "sft_dpo", "seed": "1"}
    study.run("train_dpo", job, *training_flags("whole-minimal"), *data, **wildcards)
    flags = [*training_flags("killed-minimal"), *data, "--checkpoint-minutes", 0]
    for step in (1, 6, 7, 13, 20):  # of 24; an epoch has 6
        kill_after(study, step, "train_dpo", job, flags)
    assert not (study.folder / "killed-minimal" / "arm.json").exists()
    assert "going on from killed-minimal/checkpoints/step-" in study.run("train_dpo", job, *flags, **wildcards)
    for name in RESULTS:
        killed, whole = (study.folder / folder / name for folder in ("killed-minimal", "whole-minimal"))
        assert killed.read_bytes() == whole.read_bytes(), name


def test_sigterm_saves_and_the_run_goes_on(study):
    job, flags = settings("minimal", epochs=50), ["--tokens", "pairs.parquet", *FROM_SFT]
    running = start(study, "train_dpo", job, *training_flags("stopped-minimal"), *flags, "--checkpoint-minutes", 1e6)
    last, step = stopped(running, study.folder / "stopped-minimal")
    assert last.endswith(f"stopped by SIGTERM at step {step} of 300; the same command goes on from here")


def test_the_gate_catches_another_reference(study):
    forged = pyarrow.parquet.read_table(study.folder / "base.parquet")
    honest = pyarrow.parquet.read_schema(study.folder / "sft.table.parquet").metadata[KEY]
    pyarrow.parquet.write_table(forged.replace_schema_metadata({KEY: honest}), study.folder / "base as sft.parquet")
    for engine in ("trl", "minimal"):
        flags = ["base as sft.parquet", "--start", "sft/arm.json"]
        message = study.train_dpo("forged-minimal", *flags, settings=settings(engine), fails=True)
        assert "step-0 gate: before the first update the policy must equal its reference" in message
    assert not (study.folder / "forged-minimal" / "arm.json").exists()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_each_loss_starts_is_what_the_trl_engine_asks_for(smoothing):
    """And what the formula gives at equal log-probabilities."""
    logps = torch.tensor([-3.0, -50.0]), torch.tensor([-7.0, -20.0])
    for name, (formula, closed_form) in LOSSES.items():
        if name == "reference_free":  # it starts where the policy's own log-probabilities put it
            assert formula(logps, None, 0.3, smoothing).mean().item() == pytest.approx(
                reference_free_start(list(zip(*(side.tolist() for side in logps), strict=True)), 0.3, smoothing)
            )
            continue
        used = smoothing or (1e-3 if name == "exo_pair" else 0.0)
        expected = step0_loss(name, 0.3, smoothing)
        assert closed_form(0.3, used) == pytest.approx(expected, rel=1e-12), name
        assert formula(logps, logps, 0.3, used).tolist() == pytest.approx([expected] * 2, rel=1e-6), name


def test_it_knows_every_loss_that_a_configuration_may_ask_it_for():
    recipe = yaml.safe_load((ROOT / "config/schema.yaml").read_text())["$defs"]["dpo_recipe"]
    assert set(recipe["allOf"][0]["then"]["properties"]["loss_type"]["enum"]) == set(LOSSES)


def test_a_loss_that_it_does_not_know_is_refused_before_anything_trains(study):
    message = study.train_dpo("unknown", "base.parquet", settings=settings("minimal", loss_type="apo_zero"), fails=True)
    assert message.startswith("error: engine minimal does not know loss 'apo_zero', only sigmoid, ")
    assert not (study.folder / "unknown" / "arm.json").exists()
