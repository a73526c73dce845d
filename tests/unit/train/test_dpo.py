"""DPO training: its gates, its losses, its two ways to start. test_equivalence.py compares it with TRL."""

import math
import shutil

import pandas
import pyarrow.parquet
import pytest
import torch
from conftest import DPO, SCORING
from safetensors.torch import load_file

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.job.files import read_json
from arms.model.models import load_adapter, load_base, new_adapter, save_adapter, stack_adapter
from arms.scoring.logps import pair_batch, pair_logps
from arms.scoring.tables import KEY
from arms.training.dpo import step0_loss
from arms.training.trainers import DPOTrainer


@pytest.fixture(scope="module")
def arms(study):
    """Both DPO arms, trained by our program."""
    study.train_dpo("sft_dpo", "sft.table.parquet", "--start", "sft/arm.json")
    study.train_dpo("dpo_only", "base.parquet")
    return study


def test_step0_loss_is_ln2_in_both_arms(arms):
    for arm in ("sft_dpo", "dpo_only"):
        step0 = arms.read(f"{arm}/observed.json")["step0"]
        assert step0["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert step0["reference_difference"] < 1e-3
        assert pandas.read_parquet(arms.folder / arm / "curves.parquet")["loss"][0] == pytest.approx(
            math.log(2), abs=1e-4
        )


def test_a_table_of_another_policy_is_refused(study):
    message = study.train_dpo("wrong", "base.parquet", "--start", "sft/arm.json", fails=True)
    assert "another reference policy" in message
    assert not (study.folder / "wrong").exists()


def test_the_gate_catches_the_base_as_reference(study):
    """The base's numbers under the SFT table's name: what stock TRL does with a kept SFT adapter."""
    forged = pyarrow.parquet.read_table(study.folder / "base.parquet")
    honest = pyarrow.parquet.read_schema(study.folder / "sft.table.parquet").metadata[KEY]
    pyarrow.parquet.write_table(forged.replace_schema_metadata({KEY: honest}), study.folder / "forged.parquet")
    message = study.train_dpo("forged", "forged.parquet", "--start", "sft/arm.json", fails=True)
    assert "step-0 gate" in message
    assert not (study.folder / "forged" / "arm.json").exists()


def test_a_policy_that_stayed_where_it_was_is_refused(study):
    """One step, whose learning rate is the first of a warm-up: 0."""
    recipe = {**DPO["dpo"], "batch_size": 24, "scheduler": "cosine", "warmup_ratio": 0.5}
    for engine in ("trl", "minimal"):
        settings = {**DPO, "dpo": {**recipe, "engine": engine}}
        message = study.train_dpo("stayed", "base.parquet", settings=settings, fails=True)
        assert "training left the policy where it was (adapter unchanged, margin moved by 0.0)" in message
    assert not (study.folder / "stayed" / "arm.json").exists()


def test_a_table_with_a_missing_pair_is_refused(study):
    table = pyarrow.parquet.read_table(study.folder / "base.parquet")
    pyarrow.parquet.write_table(table.slice(1), study.folder / "short.parquet")
    message = study.train_dpo("short", "short.parquet", fails=True)
    assert "1 pairs are missing (p0)" in message


def test_an_adapter_of_another_base_is_refused(study):
    shutil.copytree(study.folder / "sft", study.folder / "foreign")
    arm = study.folder / "foreign" / "arm.json"
    card = study.read("model/model.json")["sha256"]
    arm.write_text(arm.read_text().replace(card, "0" * 64))
    message = study.train_dpo("never", "sft.table.parquet", "--start", "foreign/arm.json", fails=True)
    assert "trained on the base model 000000000000" in message


def test_a_flipped_byte_in_an_adapter_is_refused(study):
    shutil.copytree(study.folder / "sft", study.folder / "flipped")
    weights = study.folder / "flipped" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    message = study.train_dpo("never", "sft.table.parquet", "--start", "flipped/arm.json", fails=True)
    assert "missing or changed since it was trained" in message


def test_an_adapter_is_written_where_peft_reads_it(study):
    message = study.train_dpo("never", "base.parquet", "--weights", "never/weights.safetensors", fails=True)
    assert "but PEFT reads it from never/adapter_model.safetensors, beside --adapter" in message


def test_training_twice_gives_the_same_bytes(arms):
    arms.train_dpo("again", "sft.table.parquet", "--start", "sft/arm.json", "--threads", 2)
    for name in ("adapter_model.safetensors", "adapter_config.json", "arm.json", "curves.parquet", "observed.json"):
        assert (arms.folder / "again" / name).read_bytes() == (arms.folder / "sft_dpo" / name).read_bytes()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", math.log(2)),
        ("robust", math.log(2)),
        ("hinge", 1.0),
        ("ipo", 25.0),
        ("exo_pair", -math.log(2) - 0.5 * math.log(0.1) - 0.5 * math.log(0.9)),
        ("nca_pair", 2 * math.log(2)),
        ("sppo_hard", 50.0),
        ("aot", math.log(2)),
        ("aot_pair", math.log(2)),
    ],
)
def test_step0_closed_forms(loss_type, expected):
    """TRL's own dpo_loss at equal log-probabilities."""
    assert step0_loss(loss_type, beta=0.1, label_smoothing=0.1) == pytest.approx(expected)
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.accelerator = type("Accelerator", (), {"device": torch.device("cpu")})
    trainer.reference_free, trainer.f_divergence_type = False, "reverse_kl"
    trainer.loss_type, trainer.beta, trainer.label_smoothing = loss_type, 0.1, 0.1
    logps = torch.tensor([-3.0, -50.0])
    losses, *_ = trainer.dpo_loss(logps, logps - 4, logps, logps - 4)
    assert losses.tolist() == pytest.approx([expected] * 2, rel=1e-6)


@pytest.mark.parametrize("loss_type", ["exo_pair", "nca_pair", "sppo_hard", "aot", "aot_pair"])
def test_the_other_losses_pass_their_gate_and_train(study, loss_type):
    recipe = {**DPO["dpo"], "loss_type": loss_type, "micro_batch_size": 4, "learning_rate": 1e-4}
    folder = f"loss-{loss_type}"
    study.train_dpo(folder, "base.parquet", settings={**DPO, "dpo": recipe})
    step0 = study.read(f"{folder}/observed.json")["step0"]
    assert step0["loss"] == pytest.approx(step0["closed_form"], rel=1e-4)


def test_a_loss_that_cannot_be_checked_is_refused(study):
    message = study.train_dpo(
        "bco", "base.parquet", settings={**DPO, "dpo": {**DPO["dpo"], "loss_type": "bco_pair"}}, fails=True
    )
    assert "'bco_pair' is not one of sigmoid, robust, hinge" in message


def test_a_fresh_adapter_starts_at_the_sft_policy_and_is_saved_as_one(study):
    """Stacked on the frozen SFT adapter it is the SFT policy; one adapter of both ranks is the same policy after it."""
    card = study.folder / "model" / "model.json"
    pairs, tokenizer = read_tokens(study.folder / "pairs.parquet"), load_tokenizer(card)
    batch = pair_batch(pairs, tokenizer.pad_token_id, True)

    def logps(model):
        model.eval()
        with torch.no_grad():
            return torch.cat(pair_logps(model, batch, True, torch.float32)[:2])

    arm = study.folder / "sft" / "arm.json"
    sft = logps(load_adapter(load_base(card, "fp32"), arm))
    stacked = stack_adapter(load_base(card, "fp32"), arm, DPO["lora"], seed=1)
    assert torch.equal(logps(stacked), sft)
    alone = new_adapter(load_base(card, "fp32"), DPO["lora"], seed=1)
    starts = [[p for p in model.parameters() if p.requires_grad] for model in (stacked, alone)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*starts, strict=True))  # the DPO-only arm's start
    with torch.no_grad():
        for parameter in starts[0]:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    trained = logps(stacked)
    assert (trained - sft).abs().max() > 0.1
    save_adapter(stacked, study.folder / "joined" / "arm.json", {"model_sha256": read_json(card)["sha256"]})
    joined = load_adapter(load_base(card, "fp32"), study.folder / "joined" / "arm.json")
    assert joined.peft_config["default"].r == 2 * DPO["lora"]["rank"]
    torch.testing.assert_close(logps(joined), trained, atol=2e-5, rtol=0)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"]])
def test_adapters_of_tied_embeddings_load_again(study, tmp_path, targets):
    """PEFT would save the base's own embedding beside them, and a stack would join that, too."""
    card, lora = study.folder / "model" / "model.json", {**DPO["lora"], "target_modules": targets}
    pairs = pair_batch(read_tokens(study.folder / "pairs.parquet"), 0, True)

    def moved(model):
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(torch.randn_like(parameter) * 0.05)
            return torch.cat(pair_logps(model.eval(), pairs, True, torch.float32)[:2])

    sft, stack = tmp_path / "sft" / "arm.json", tmp_path / "stack" / "arm.json"
    trained = new_adapter(load_base(card, "fp32"), lora, seed=1)
    policies = {sft: moved(trained)}
    save_adapter(trained, sft, {})
    trained = stack_adapter(load_base(card, "fp32"), sft, lora, seed=2)
    policies[stack] = moved(trained)
    save_adapter(trained, stack, {})
    assert (policies[stack] - policies[sft]).abs().max() > 0.1
    for arm, logps in policies.items():
        again = load_adapter(load_base(card, "fp32"), arm).eval()
        with torch.no_grad():
            found = torch.cat(pair_logps(again, pairs, True, torch.float32)[:2])
        torch.testing.assert_close(found, logps, atol=2e-5, rtol=0)
        assert all("lora_" in name for name in load_file(arm.with_name("adapter_model.safetensors")))


def test_the_fresh_start_trains_as_much_as_dpo_only(study, arms):
    study.train_dpo("fresh", "sft.table.parquet", "--start", "sft/arm.json", settings={**DPO, "start": "fresh"})
    fresh, alone = study.read("fresh/observed.json"), study.read("dpo_only/observed.json")
    for fact in ("trainable_parameters", "trainable_dtypes", "dropout", "rows", "steps", "batch_order_sha256"):
        assert fresh[fact] == alone[fact]
    assert fresh["step0"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    study.score("fresh.parquet", "--adapter", "fresh/arm.json")


def test_threads_and_cpu_instructions(study, arms):
    message = study.run(
        "score_pairs",
        {**SCORING, "cpu_instructions": "portable"},
        *("--model", "model/model.json", "--tokens", "pairs.parquet", "--table", "never.parquet"),
        fails=True,
    )
    assert "was not started with" in message
    assert "MKL_CBWR='COMPATIBLE'" in message
