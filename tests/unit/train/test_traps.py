"""A catalogue of what goes wrong in stock TRL 0.9.6 and its neighbours as pinned here, mostly without a word.

Each test first shows the trap in the stock libraries, then that this pipeline does not have it. Where the second half
stands elsewhere, the docstring says where.
"""

import ast
import contextlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import requires

import pyarrow.parquet
import pytest
import torch
from conftest import DPO, ROOT, SFT, TOKENS, make_study, training_flags
from datasets import Dataset
from fresh import fresh_adapter, lora_config, per_step
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from stock_pinned import PreTokenised, dpo_config, live_reference, stock_rows, watch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments
from trl import DataCollatorForCompletionOnlyLM, DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.job.files import UserError
from arms.model.models import load_base
from arms.scoring.logps import completion_batch
from arms.scoring.tables import KEY
from arms.training.recipe import whole_batches

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]
LN2 = math.log(2)
TEXT_ROWS = [{"prompt": "Say river.", "chosen": " river", "rejected": " stone"}]


# Stock trainers on the study's model and rows.


def card(study):
    return study.folder / "model" / "model.json"


def base_of(study):
    return load_base(card(study), "fp32")


def sft_policy(study, folder=None, **options):
    """The SFT adapter on the base, under PEFT's default name."""
    return PeftModel.from_pretrained(base_of(study), str(folder or study.folder / "sft"), **options)


def stock_dpo(study, model, rows=None, config=None, tokenizer=None, **options):
    """TRL's DPOTrainer; `rows` of text are tokenised by TRL, without them it gets the study's ids."""
    ids = stock_rows(read_tokens(study.folder / "pairs.parquet"))
    return (DPOTrainer if rows else PreTokenised)(
        model=model,
        args=dpo_config(study.folder, DPO["dpo"], **(config or {})),
        train_dataset=Dataset.from_list(rows or ids),
        tokenizer=tokenizer or load_tokenizer(card(study)),
        **options,
    )


def stock_sft(study, rows, config=None, tokenizer=None, **options):
    """TRL's SFTTrainer on rows of text."""
    quiet = {"output_dir": str(study.folder / "stock"), "use_cpu": True, "report_to": [], "disable_tqdm": True}
    return SFTTrainer(
        model=base_of(study),
        args=SFTConfig(**{**quiet, "max_seq_length": 128, **(config or {})}),
        train_dataset=Dataset.from_list(rows),
        tokenizer=tokenizer or load_tokenizer(card(study)),
        **options,
    )


def first_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(min(4, len(trainer.train_dataset)))])


def step0(trainer):
    """Loss before the first update."""
    with torch.no_grad():
        return trainer.get_batch_loss_metrics(trainer.model, first_batch(trainer))[0].item()


def losses(trainer):
    """Loss of each optimiser step."""
    seen = watch(trainer)
    trainer.train()
    return per_step(seen)["loss"].tolist()


def weights(model, part):
    """Copies of the parameters whose names contain `part`."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if part in name}


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


def labelled(collated, token):
    """How often `token` is a label, in each row."""
    return (collated["labels"] == token).sum(1).tolist()


# What our programs made, for the second halves.


@pytest.fixture(scope="module")
def ours(study):
    """Both DPO arms by our program; with a warning of TRL about an argument, or any FutureWarning, an error."""
    recipe = {**DPO["dpo"], "epochs": 2, "batch_size": 10}  # 24 pairs do not fill the last batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error::FutureWarning,error:You passed")
        patch.setattr(study, "anew", True)
        settings = {**DPO, "dpo": recipe}
        study.train_dpo("ours/sft_dpo", "sft.table.parquet", "--start", "sft/arm.json", settings=settings)
        study.train_dpo("ours/dpo_only", "base.parquet", settings=settings)
    return study


def observed(study, arm):
    return study.read(f"ours/{arm}/observed.json")


def tokenize(study, rows, settings=TOKENS, fails=False):
    """Run our tokeniser on pairs: (token rows, audit), or the message if it `fails`."""
    rows = [{"id": f"r{i}", "category": "a", **row} for i, row in enumerate(rows)]
    (study.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", "rows.jsonl", "--kind", "pairs", "--tokens", "rows.parquet", "--audit", "rows.json"]
    message = study.run("tokenize_data", settings, "--model", "model/model.json", *flags, fails=fails)
    return message if fails else (read_tokens(study.folder / "rows.parquet"), study.read("rows.json"))


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def family(request, tmp_path_factory):
    """A study whose tokenizer has no BOS (qwen2), or one that is its EOS (gpt2)."""
    return request.param, make_study(tmp_path_factory.mktemp(request.param), request.param)


class TestReference:
    """Which policy the loss is taken against."""

    def test_a_kept_sft_adapter_without_ref_model_is_trained_against_the_base(self, study, ours):
        trainer = stock_dpo(study, sft_policy(study, is_trainable=True))
        batch = first_batch(trainer)
        assert abs(step0(trainer) - LN2) > 1e-3
        with torch.no_grad():
            used = trainer.compute_reference_log_probs(batch)[0]
            base = trainer.concatenated_forward(base_of(study), batch)[0]
            sft = trainer.concatenated_forward(sft_policy(study), batch)[0]
        assert torch.equal(used, base)
        assert (used - sft).abs().min() > 0.1
        assert observed(ours, "sft_dpo")["step0"]["loss"] == pytest.approx(LN2, abs=1e-4)

    def test_without_is_trainable_training_depends_on_whether_a_reference_pass_came_first(self, study, ours):
        with pytest.raises(RuntimeError, match="does not require grad"):
            stock_dpo(study, sft_policy(study)).train()
        trainer = stock_dpo(study, sft_policy(study))
        step0(trainer)  # PEFT's disable_adapter() turns gradients on when it ends
        before = weights(trainer.model, "lora_")
        trainer.train()
        assert not same(before, weights(trainer.model, "lora_"))
        assert observed(ours, "sft_dpo")["trainable_parameters"] == sum(w.numel() for w in before.values())

    def test_an_sft_adapter_with_a_peft_config_is_merged_away(self, study, ours):
        trainer = stock_dpo(study, sft_policy(study, is_trainable=True), peft_config=lora_config())
        merged, original = weights(trainer.model, "base_layer"), weights(sft_policy(study), "base_layer")
        assert not same(original, merged)
        assert not any(value.any() for value in weights(trainer.model, "lora_B").values())
        assert step0(trainer) == pytest.approx(LN2, abs=1e-6)
        adapter = "adapter_model.safetensors"
        sft, dpo = load_file(study.folder / "sft" / adapter), load_file(ours.folder / "ours" / "sft_dpo" / adapter)
        assert sft.keys() == dpo.keys()  # ours goes on from the SFT adapter
        change = torch.cat([(dpo[name] - sft[name]).flatten() for name in sft]).norm()
        assert 0 < change < 0.2 * torch.cat([value.flatten() for value in sft.values()]).norm()

    def test_two_named_copies_of_the_sft_adapter_are_right(self, study):
        """The one correct stock recipe; tests/unit/train/test_equivalence.py compares it with ours at every step."""
        model, names = live_reference(study)
        trainer = stock_dpo(study, model, config=names)
        assert step0(trainer) == pytest.approx(LN2, abs=1e-6)
        before = weights(model, ".reference."), weights(model, ".policy.")
        trainer.train()
        assert same(before[0], weights(model, ".reference."))
        assert not same(before[1], weights(model, ".policy."))

    def test_forgetting_the_name_of_the_reference_adapter_is_silent(self, study):
        """Ours has no names to forget: the reference is a table, and another policy's table is refused."""
        model, names = live_reference(study)
        with pytest.raises(ValueError, match="Adapter default not found"):
            losses(stock_dpo(study, model, config={"ref_adapter_name": names["ref_adapter_name"]}))
        model, names = live_reference(study)
        right = step0(stock_dpo(study, model, config=names))
        model, names = live_reference(study)
        forgotten = step0(stock_dpo(study, model, config={"model_adapter_name": names["model_adapter_name"]}))
        against_the_base = step0(stock_dpo(study, sft_policy(study, is_trainable=True)))
        assert forgotten == against_the_base != pytest.approx(right, abs=1e-3)

    def test_an_adapter_named_train_is_impossible(self, study):
        with pytest.raises(KeyError, match="attribute 'train' already exists"):
            sft_policy(study, adapter_name="train")

    def test_two_adapters_are_saved_into_subfolders(self, study, ours, tmp_path):
        model, names = live_reference(study)
        stock_dpo(study, model, config=names).save_model(str(tmp_path))
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"policy", "reference"}
        assert not (tmp_path / "adapter_config.json").exists()
        assert (ours.folder / "ours" / "sft_dpo" / "adapter_config.json").is_file()

    def test_a_fresh_adapter_starts_at_its_reference(self, study, ours):
        assert step0(stock_dpo(study, fresh_adapter(base_of(study))[0])) == pytest.approx(LN2, abs=1e-6)
        assert observed(ours, "dpo_only")["step0"]["loss"] == pytest.approx(LN2, abs=1e-4)

    def test_merging_changes_the_reference_by_rounding_only(self, study):
        """A merged SFT adapter is a right reference in fp32, but it needs the weights in full; ours merges nothing."""
        ids = torch.tensor([read_tokens(study.folder / "pairs.parquet")[0]["prompt_ids"]])
        with torch.no_grad():
            kept = sft_policy(study)(input_ids=ids).logits
            merged = sft_policy(study).merge_and_unload()(input_ids=ids).logits
        assert 0 < (kept - merged).abs().max() < 1e-5

    def test_a_fresh_adapter_on_a_kept_one_needs_its_own_reference_switch(self, study):
        """TRL switches off both adapters, and PEFT makes the frozen one trainable. Ours has one adapter."""
        model = sft_policy(study, adapter_name="sft")
        model.add_adapter("dpo", LoraConfig(target_modules=["q_proj", "v_proj"]))
        model.base_model.set_adapter(["sft", "dpo"])
        assert all(value.requires_grad for name, value in model.named_parameters() if ".sft." in name)
        trainer = stock_dpo(study, model)
        against_the_base = step0(stock_dpo(study, sft_policy(study, is_trainable=True)))
        assert step0(trainer) == pytest.approx(against_the_base, abs=1e-6)
        assert abs(against_the_base - LN2) > 1e-3

    def test_a_reference_is_cloned_for_a_full_model_and_never_for_peft(self, study):
        """A clone also means that a table's columns would never be read; ours trains adapters only."""
        rows = [
            {**row, "reference_chosen_logps": 0.0, "reference_rejected_logps": -50.0}
            for row in stock_rows(read_tokens(study.folder / "pairs.parquet"))
        ]
        full = PreTokenised(
            model=base_of(study),
            args=dpo_config(study.folder, DPO["dpo"]),
            train_dataset=Dataset.from_list(rows),
            tokenizer=load_tokenizer(card(study)),
        )
        assert full.ref_model is not None
        assert full.ref_model is not full.model
        assert step0(full) == pytest.approx(LN2, abs=1e-6)
        assert stock_dpo(study, sft_policy(study)).ref_model is None

    def test_lora_dropout_is_off_in_dpo_or_else_makes_the_reference_noisy(self, study, ours, tmp_path):
        shutil.copytree(study.folder / "sft", tmp_path / "sft")
        config = json.loads((tmp_path / "sft" / "adapter_config.json").read_text())
        (tmp_path / "sft" / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.1}))
        found = {}
        for switched_off in (True, False):
            model = sft_policy(study, tmp_path / "sft", adapter_name="policy", is_trainable=True)
            model.load_adapter(str(tmp_path / "sft"), adapter_name="reference")
            names = {"model_adapter_name": "policy", "ref_adapter_name": "reference"}
            trainer = stock_dpo(study, model, config={**names, "disable_dropout": switched_off})
            found[switched_off] = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}, losses(trainer)[0]
        assert found[True] == ({0.0}, pytest.approx(LN2, abs=1e-6))
        assert found[False][0] == {0.1}
        assert abs(found[False][1] - LN2) > 1e-5
        # Ours: in effect as configured, the reference is a table without noise, and observed.json says what a run had.
        assert observed(ours, "sft_dpo")["dropout"] == 0.0
        study.train_dpo("ours/noisy", "base.parquet", settings={**DPO, "lora": {**DPO["lora"], "dropout": 0.1}})
        assert observed(study, "noisy")["dropout"] == 0.1
        assert observed(study, "noisy")["step0"]["loss"] == pytest.approx(LN2, abs=1e-6)


class TestPrecomputedReference:
    """`precompute_ref_log_probs` and its columns do nothing in 0.9.6, except harm."""

    def rows(self, study, chosen, rejected):
        ids = stock_rows(read_tokens(study.folder / "pairs.parquet"))
        return [{**row, "reference_chosen_logps": chosen, "reference_rejected_logps": rejected} for row in ids]

    def with_columns(self, study, rows, **config):
        model, names = live_reference(study)
        return PreTokenised(
            model=model,
            args=dpo_config(study.folder, DPO["dpo"], **names, **config),
            train_dataset=Dataset.from_list(rows),
            tokenizer=load_tokenizer(card(study)),
        )

    def test_the_flag_only_adds_reference_passes(self, study):
        runs = []
        for flag in (False, True):
            model, names = live_reference(study)
            trainer = stock_dpo(study, model, config={**names, "precompute_ref_log_probs": flag})
            passes, original = [], trainer.null_ref_context
            trainer.null_ref_context = lambda passes=passes, original=original: passes.append(1) or original()
            runs.append((losses(trainer), len(passes)))
        assert runs[0][0] == runs[1][0]
        assert [passes for _, passes in runs] == [12, 24]

    def test_wrong_columns_reach_the_batch_and_are_not_read(self, study):
        wrong = self.with_columns(study, self.rows(study, 0.0, -50.0))
        assert first_batch(wrong)["reference_rejected_logps"].tolist() == [-50.0] * 4
        model, names = live_reference(study)
        assert losses(wrong) == losses(stock_dpo(study, model, config=names))

    def test_columns_are_read_with_rpo_alpha_which_adds_another_loss(self, study):
        trainer = self.with_columns(study, self.rows(study, 0.0, -50.0), rpo_alpha=1.0)
        with torch.no_grad():
            chosen, rejected, _, _, nll = trainer.concatenated_forward(trainer.model, first_batch(trainer))
        dpo = -torch.nn.functional.logsigmoid(0.1 * ((chosen - 0) - (rejected + 50))).mean()
        assert step0(trainer) == pytest.approx((dpo + nll).item(), abs=1e-5)

    def test_a_full_model_with_the_flag_is_its_own_moving_reference(self, study):
        found = {}
        for flag in (False, True):
            model = base_of(study).requires_grad_(True)
            trainer = stock_dpo(study, model, config={"precompute_ref_log_probs": flag})
            found[flag] = losses(trainer)
            norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        assert found[True] == pytest.approx([LN2] * 6, abs=1e-6)
        assert min(norms) > 0.1  # it trains, against nothing
        assert abs(found[False][-1] - LN2) > 1e-3

    def test_columns_and_the_flag_are_an_error(self, study):
        trainer = self.with_columns(study, self.rows(study, 0.0, 0.0), precompute_ref_log_probs=True)
        with pytest.raises(ValueError, match="duplicated columns"):
            trainer.train()

    def test_our_table_is_read(self, study):
        """The base's numbers under the SFT table's name and origin: the step-0 gate sees them."""
        forged = pyarrow.parquet.read_table(study.folder / "base.parquet")
        honest = pyarrow.parquet.read_schema(study.folder / "sft.table.parquet").metadata[KEY]
        pyarrow.parquet.write_table(forged.replace_schema_metadata({KEY: honest}), study.folder / "planted.parquet")
        message = study.train_dpo("never", "planted.parquet", "--start", "sft/arm.json", fails=True)
        assert "step-0 gate" in message


class TestPaddingAndEos:
    """What is padded with what, and whether a model learns to stop."""

    def test_padding_value_of_the_config_is_ignored(self, study):
        tokenizer, model = load_tokenizer(card(study)), fresh_adapter(base_of(study))[0]
        assert stock_dpo(study, model, config={"padding_value": 77}).padding_value == tokenizer.pad_token_id
        with pytest.warns(FutureWarning, match="padding_value"):
            assert stock_dpo(study, model, padding_value=77).padding_value == 77

    def test_another_label_pad_crashes(self, study):
        trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], TEXT_ROWS * 4, {"label_pad_token_id": -7})
        with pytest.raises(IndexError, match="Target -7 is out of bounds"):
            trainer.train()

    def test_no_pad_token_is_an_error(self, study):
        tokenizer = load_tokenizer(card(study))
        tokenizer.pad_token = None
        trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], tokenizer=tokenizer)
        with pytest.raises(ValueError, match="not configured with a padding token"):
            trainer.train()

    def test_pad_equal_to_eos_does_not_matter_to_dpo(self, study):
        tokenizer = load_tokenizer(card(study))
        tokenizer.pad_token = tokenizer.eos_token
        rows = [*TEXT_ROWS, {"prompt": "Say stone and cloud.", "chosen": " stone, cloud", "rejected": " no"}]
        trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], rows, tokenizer=tokenizer)
        batch = first_batch(trainer)
        for side in ("chosen", "rejected"):
            assert labelled({"labels": batch[f"{side}_labels"]}, tokenizer.eos_token_id) == [1, 1]
        assert step0(trainer) == pytest.approx(LN2, abs=1e-6)

    @pytest.mark.parametrize("completion_only", [False, True])
    def test_pad_equal_to_eos_means_that_sft_never_trains_to_stop(self, study, completion_only):
        found = {}
        for pad_is_eos in (False, True):
            tokenizer = load_tokenizer(card(study))
            tokenizer.pad_token = tokenizer.eos_token if pad_is_eos else tokenizer.pad_token
            collator = DataCollatorForCompletionOnlyLM("A:", tokenizer=tokenizer) if completion_only else None
            rows = [{"text": f"Q: river\nA: {text}{tokenizer.eos_token}"} for text in ("stone", "green table")]
            trainer = stock_sft(study, rows, {"dataset_text_field": "text"}, tokenizer, data_collator=collator)
            found[pad_is_eos] = labelled(first_batch(trainer), tokenizer.eos_token_id)
        assert found == {False: [1, 1], True: [0, 0]}

    def test_our_pad_is_chosen_apart_from_eos_and_cannot_be_set_to_it(self, study):
        planted = study.read("model/model.json")
        assert planted["tokenizer"]["pad_id"] != planted["tokenizer"]["eos_id"]
        planted["tokenizer"]["pad_token"] = load_tokenizer(card(study)).eos_token
        path = study.folder / "model" / "planted.json"
        path.write_text(json.dumps(planted))
        with pytest.raises(UserError, match="not the tokenizer that"):
            load_tokenizer(path)

    def test_sft_appends_no_eos_but_ours_does_and_scores_it(self, study):
        tokenizer = load_tokenizer(card(study))
        trainer = stock_sft(study, [{"text": "Q: river\nA: stone"}], {"dataset_text_field": "text"})
        assert labelled(first_batch(trainer), tokenizer.eos_token_id) == [0]
        rows = read_tokens(study.folder / "sft.parquet")
        assert all(row["completion_ids"].count(tokenizer.eos_token_id) == 1 for row in rows)
        batch = completion_batch([(row["prompt_ids"], row["completion_ids"]) for row in rows], tokenizer.pad_token_id)
        scored = torch.where(batch["segment"] > 0, batch["target"], -1)
        assert labelled({"labels": scored}, tokenizer.eos_token_id) == [1] * len(rows)

    def test_a_completion_template_that_is_not_found_leaves_nothing_to_train(self, study):
        """Ours knows where the completion starts: prompt and completion are tokenised apart."""
        tokenizer = load_tokenizer(card(study))
        collator = DataCollatorForCompletionOnlyLM("### Answer:", tokenizer=tokenizer)
        with pytest.warns(UserWarning, match="Could not find response key"):
            batch = collator([tokenizer("Q: river\nA: stone")])
        assert set(batch["labels"].flatten().tolist()) == {-100}
        row = read_tokens(study.folder / "sft.parquet")[0]
        segment = completion_batch([(row["prompt_ids"], row["completion_ids"])], tokenizer.pad_token_id)["segment"]
        assert segment[0].tolist() == [0] * len(row["prompt_ids"]) + [1] * len(row["completion_ids"])


class TestBos:
    """What stands before a prompt and after an answer."""

    def test_families_without_a_bos_of_their_own(self, family):
        name, study = family
        tokenizer, model = load_tokenizer(card(study)), fresh_adapter(base_of(study))[0]
        prompt = "Q: river\nA:" if name == "gpt2" else "<|im_start|>user\nriver<|im_end|>\n<|im_start|>assistant\n"
        rows = [{"prompt": prompt, "chosen": " stone", "rejected": " cloud"}] * 4
        sft = stock_sft(study, [{"text": prompt}], {"dataset_text_field": "text"}, tokenizer).train_dataset[0]
        trainer = stock_dpo(study, model, rows, tokenizer=tokenizer)
        dpo = trainer.train_dataset[0]["prompt_input_ids"]
        if name == "gpt2":  # DPO puts an EOS in front, SFT does not
            assert tokenizer.bos_token_id == tokenizer.eos_token_id
            assert dpo == [tokenizer.eos_token_id, *sft["input_ids"]]
        else:  # DPO puts None in front
            assert dpo == [None, *sft["input_ids"]]
            with pytest.raises(TypeError, match="NoneType"):
                trainer.train()
            tokenizer.bos_token = "<|im_start|>"  # the cure for ChatML: nothing is added, the prompt starts with it
            cured = stock_dpo(study, fresh_adapter(base_of(study))[0], rows, tokenizer=tokenizer)
            assert cured.train_dataset[0]["prompt_input_ids"] == sft["input_ids"]

    def test_our_prompts_are_equal_in_sft_dpo_and_generation(self, family):
        name, study = family
        tokenizer = load_tokenizer(card(study))
        settings = {**TOKENS, "template": "Q: {prompt}\nA:"} if name == "gpt2" else TOKENS
        flags = ["--data", "data.jsonl", "--kind", "prompts", "--tokens", "prompts.parquet", "--audit", "prompts.json"]
        study.run("tokenize_data", settings, "--model", "model/model.json", *flags)
        sft, pairs, prompts = (read_tokens(study.folder / f"{kind}.parquet") for kind in ("sft", "pairs", "prompts"))
        for rows in (pairs, prompts):
            assert [row["prompt_ids"] for row in rows] == [row["prompt_ids"] for row in sft]
        assert [row["completion_ids"] for row in sft] == [row["chosen_ids"] for row in pairs]
        assert all(isinstance(token, int) for row in pairs for token in row["prompt_ids"])
        assert not any(row["prompt_ids"][0] == tokenizer.eos_token_id for row in pairs)

    def test_an_answer_rendered_by_the_chat_template_gets_eos_twice(self, study):
        tokenizer = load_tokenizer(card(study))
        rendered = {"prompt": "Say river.", "chosen": f" river{tokenizer.eos_token}\n", "rejected": " stone"}
        row = stock_dpo(study, fresh_adapter(base_of(study))[0], [rendered]).train_dataset[0]
        assert row["chosen_input_ids"].count(tokenizer.eos_token_id) == 2
        assert "has the EOS token '<|im_end|>' in its text" in tokenize(study, [rendered], fails=True)

    def test_messages_are_no_text(self, study):
        message = [{"role": "user", "content": "Say river."}]
        model = fresh_adapter(base_of(study))[0]
        with pytest.raises(ValueError, match="prompt should be an str"):
            stock_dpo(study, model, [{**TEXT_ROWS[0], "prompt": message}])
        with pytest.raises(ValueError, match="chosen should be an str but got <class 'list'>"):
            stock_dpo(study, model, [{**TEXT_ROWS[0], "chosen": message}])
        complaint = tokenize(study, [{**TEXT_ROWS[0], "chosen": message}], fails=True)
        assert "rows.jsonl, line 1: column 'chosen' must be str, found list" in complaint


class TestTruncation:
    """TRL cuts; ours refuses or drops, and counts. Each of the letters Z, Q, X and J is one token here."""

    def row(self, study, prompt, chosen, rejected, **config):
        texts = ("ZQXJ" * 8)[:prompt], ("ZQXJ" * 8)[:chosen], ("ZQXJ" * 8)[:rejected]
        rows = [dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))]
        limits = {"max_length": 20, "max_prompt_length": 8, **config}
        row = stock_dpo(study, fresh_adapter(base_of(study))[0], rows, limits).train_dataset[0]
        return row, load_tokenizer(card(study))

    def test_what_fits_is_whole(self, study):
        row, tokenizer = self.row(study, prompt=10, chosen=8, rejected=3)
        assert row["prompt_input_ids"][0] == tokenizer.bos_token_id
        assert len(row["chosen_input_ids"]) == 1 + 10 + 8 + 1

    def test_the_start_of_a_prompt_is_lost_with_its_bos(self, study):
        row, tokenizer = self.row(study, prompt=11, chosen=8, rejected=3)
        assert row["prompt_input_ids"] == tokenizer("ZQXJ" * 8)["input_ids"][3:11]
        row, _ = self.row(study, prompt=11, chosen=8, rejected=3, truncation_mode="keep_start")
        assert row["prompt_input_ids"] == [tokenizer.bos_token_id, *tokenizer("ZQXJZQX")["input_ids"]]

    def test_a_cut_answer_loses_eos_and_room_is_wasted(self, study):
        row, tokenizer = self.row(study, prompt=4, chosen=25, rejected=3)
        assert len(row["chosen_input_ids"]) == 5 + (20 - 8)
        assert tokenizer.eos_token_id not in row["chosen_input_ids"]
        assert row["rejected_input_ids"][-1] == tokenizer.eos_token_id  # a cue that has nothing to do with preference

    @pytest.mark.parametrize("on_overlong", ["error", "drop"])
    def test_our_rows_are_whole_or_not_there(self, study, on_overlong):
        long = {"prompt": "ZQXJ", "chosen": "ZQXJ" * 30, "rejected": "Z"}
        settings = {**TOKENS, "max_length": 60, "on_overlong": on_overlong}
        if on_overlong == "error":
            assert "1 rows are longer than tokens.max_length = 60" in tokenize(
                study, [long, *TEXT_ROWS], settings, True
            )
            return
        rows, audit = tokenize(study, [long, *TEXT_ROWS], settings)
        tokenizer = load_tokenizer(card(study))
        assert audit["overlong"]["rows"] == [1]
        assert audit["overlong"]["by_side"] == {"chosen": 1}
        assert audit["overlong"]["lost_eos"] == {}
        assert [row["id"] for row in rows] == ["r1"]
        assert rows[0]["prompt_ids"][0] == tokenizer.bos_token_id
        assert rows[0]["chosen_ids"][-1] == rows[0]["rejected_ids"][-1] == tokenizer.eos_token_id

    def test_the_default_length_of_sft_is_announced_and_not_applied(self, study):
        """Ours applies one limit, tokens.max_length, to every kind of row."""
        with pytest.warns(UserWarning, match="will default to 1024"):
            trainer = stock_sft(
                study, [{"text": "ZQXJ" * 1000}], {"dataset_text_field": "text", "max_seq_length": None}
            )
        assert len(trainer.train_dataset[0]["input_ids"]) == load_tokenizer(card(study)).model_max_length > 1024


class TestArguments:
    """Arguments that 0.9.6 takes, ignores, overrides or refuses. Ours is run with such warnings as errors (`ours`)."""

    def test_evaluation_strategy(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            DPOConfig(str(tmp_path), use_cpu=True, eval_strategy="steps")
        with pytest.warns(FutureWarning, match="removed in version 4.46"):
            both = DPOConfig(str(tmp_path), use_cpu=True, evaluation_strategy="steps", eval_strategy="epoch")
        assert both.eval_strategy == "steps"

    def test_beta_beside_the_config(self, study):
        model = fresh_adapter(base_of(study))[0]
        with pytest.warns(FutureWarning, match="beta. Will not be supported from version '1.0.0'"):
            with pytest.warns(UserWarning, match="You passed `beta`"):
                assert stock_dpo(study, model, beta=0.3).beta == 0.3
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert stock_dpo(study, model, config={"beta": 0.5}, beta=0.1).beta == 0.5
        assert not [warning for warning in caught if "beta" in str(warning.message)]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"args": "TrainingArguments"}, AttributeError, "'TrainingArguments' object has no attribute 'model_init"),
            ({"args": None}, AttributeError, "'NoneType' object has no attribute 'model_init_kwargs'"),
            ({"processing_class": None}, TypeError, "unexpected keyword argument 'processing_class'"),
            ({"tokenizer": None}, ValueError, "tokenizer must be specified to tokenize a DPO dataset"),
            ({"ref_model": "base", "peft_config": "lora"}, ValueError, "passed both a ref_model and a peft_config"),
        ],
        ids=["TrainingArguments", "no args", "processing_class", "no tokenizer", "ref_model and peft_config"],
    )
    def test_refused(self, study, options, error, message):
        real = {
            "TrainingArguments": TrainingArguments(str(study.folder / "stock"), use_cpu=True),
            "base": base_of(study),
            "lora": lora_config(),
        }
        good = {
            "model": base_of(study),
            "args": dpo_config(study.folder, DPO["dpo"]),
            "train_dataset": Dataset.from_list(TEXT_ROWS),
            "tokenizer": load_tokenizer(card(study)),
        }
        options = {name: real.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
        with pytest.raises(error, match=message):
            DPOTrainer(**{**good, **options})

    def test_args_as_the_third_positional_argument_become_beta(self, study):
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'model_init_kwargs'"):
            DPOTrainer(base_of(study), None, dpo_config(study.folder, DPO["dpo"]))

    def test_a_ref_model_beside_a_peft_model_is_taken(self, study):
        reference = base_of(study)
        assert stock_dpo(study, sft_policy(study), ref_model=reference).ref_model is reference

    def test_unset_lengths_become_512_and_128(self, study):
        unset = {"max_length": None, "max_prompt_length": None}
        with pytest.warns(UserWarning, match="default to `512`"), pytest.warns(UserWarning, match="default to `128`"):
            trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], config=unset)
        assert (trainer.max_length, trainer.max_prompt_length) == (512, 128)

    def test_sft_takes_training_arguments_but_no_max_length(self, study):
        plain = TrainingArguments(str(study.folder / "stock"), use_cpu=True, report_to=[])
        ids = Dataset.from_list([{"input_ids": [11, 12]}])
        trainer = SFTTrainer(base_of(study), plain, train_dataset=ids, tokenizer=load_tokenizer(card(study)))
        assert type(trainer.args) is SFTConfig
        with pytest.raises(TypeError, match="max_length"):
            SFTConfig(str(study.folder / "stock"), max_length=128)
        with pytest.raises(TypeError, match="processing_class"):
            stock_sft(study, [{"text": "river"}], processing_class=None)

    def test_sft_on_prompt_and_completion_trains_the_prompt_too(self, study):
        tokenizer = load_tokenizer(card(study))
        turns = [{"role": "user", "content": "Say river."}, {"role": "assistant", "content": "river"}]
        chat = tokenizer.apply_chat_template(turns)
        for row in ({"prompt": "Say river.", "completion": "river"}, {"messages": turns}):
            labels = first_batch(stock_sft(study, [row]))["labels"]
            assert labels.tolist() == [chat]  # all of it is trained
        (row, *_), _ = tokenize(study, [{"prompt": "Say river.", "chosen": "river", "rejected": "stone"}])
        ours = row["prompt_ids"] + row["chosen_ids"]
        assert ours == chat[: len(ours)]  # the same ids up to EOS, of which the completion's are trained (see above)

    def test_the_best_model_at_the_end_needs_rhyming_steps(self, tmp_path):
        steps = {"eval_strategy": "steps", "eval_steps": 25, "save_strategy": "steps", "save_steps": 60}
        with pytest.raises(ValueError, match="round multiple"):
            DPOConfig(str(tmp_path), use_cpu=True, load_best_model_at_end=True, **steps)

    def test_ours_raises_none_of_these_warnings(self, ours):
        assert {observed(ours, arm)["steps"] for arm in ("sft_dpo", "dpo_only")} == {4}


class TestResumeAndSeeds:
    """What a resumed run, or a second seed, silently is."""

    def run(self, study, folder, accumulate, resume=None):
        """Adapter after 3 epochs of 8 micro-batches by the stock trainer, which keeps a checkpoint at each step."""
        config = {"output_dir": str(folder), "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3}
        config["gradient_accumulation_steps"] = accumulate
        trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], config=config)
        trainer.train_dataset = trainer.train_dataset.select(range(16))
        trainer.train(resume_from_checkpoint=resume)
        return weights(trainer.model, "lora_")

    def test_resuming_with_an_accumulation_remainder_is_another_run(self, study, ours, tmp_path):
        for accumulate, equal in ((4, True), (3, False)):
            whole = self.run(study, tmp_path / f"{accumulate}", accumulate)
            checkpoint = str(tmp_path / f"{accumulate}" / "checkpoint-3")
            resumed = self.run(study, tmp_path / f"{accumulate} resumed", accumulate, checkpoint)
            assert same(whole, resumed) == equal
        rows = whole_batches([{"id": i} for i in range(24)], 10, 2)
        assert len(rows) == observed(ours, "dpo_only")["rows"] == 20

    def test_the_seed_does_not_reach_the_adapters_initialisation(self, study):
        """TRL makes the adapter, and only then Trainer sets the seed; a new process starts torch's generator anywhere.

        So equal seeds start from different adapters, and different seeds from one if torch was seeded before.
        """
        starts = {}
        for state, seed in ((10, 1), (10, 2), (11, 1)):
            torch.manual_seed(state)
            trainer = stock_dpo(study, base_of(study), config={"seed": seed}, peft_config=lora_config())
            starts[state, seed] = weights(trainer.model, "lora_A")
        assert same(starts[10, 1], starts[10, 2])
        assert not same(starts[10, 1], starts[11, 1])
        study.run("train_sft", SFT, *training_flags("seed2"), "--tokens", "sft.parquet", seed="2")
        ours = [load_file(study.folder / folder / "adapter_model.safetensors") for folder in ("sft", "seed2")]
        # LoRA's A starts within 1 / sqrt(32) = 0.18 of zero; 6 Adam steps of 5e-3 move a weight by about 0.03
        apart = max((ours[0][name] - ours[1][name]).abs().max().item() for name in ours[0] if "lora_A" in name)
        assert apart > 0.2

    def test_data_seed_is_ignored(self, study):
        """accelerate's sampler starts from torch's seed; test_equivalence.py rebuilds our order from the seed alone."""
        orders = {}
        for seed, data_seed in ((1, 1), (1, 7), (2, 7)):
            config = {"seed": seed, "data_seed": data_seed}
            trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], config=config)
            orders[seed, data_seed] = [batch["chosen_input_ids"].tolist() for batch in trainer.get_train_dataloader()]
        assert orders[1, 1] == orders[1, 7] != orders[2, 7]

    def test_target_modules_are_written_in_the_order_of_a_set(self, study, tmp_path):
        """Texts hash differently in each process, so equal training gives unequal files; ours are sorted."""

        class Name(str):
            def __hash__(self):
                return self.hash

        q, v, written = Name("q_proj"), Name("v_proj"), []
        for q.hash, v.hash in ((1, 2), (2, 1)):
            LoraConfig(target_modules=[q, v]).save_pretrained(tmp_path)
            written.append(json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"])
        assert written[0] == written[1][::-1]
        ours = study.read("sft/adapter_config.json")["target_modules"]
        assert ours == sorted(ours)
        assert len(ours) > 1


class Planted:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class TestSafety:
    """Whose code runs."""

    @pytest.fixture(scope="class")
    def checkpoint(self, study, tmp_path_factory):
        """(a stock trainer, its checkpoint after one step)."""
        folder = tmp_path_factory.mktemp("stock checkpoint")
        config = {"output_dir": str(folder), "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
        stock_dpo(study, fresh_adapter(base_of(study))[0], config=config).train()
        return {**config, "max_steps": 2}, folder / "checkpoint-1"

    @pytest.mark.parametrize(
        ("name", "runs"),
        [("rng_state.pth", True), ("optimizer.pt", True), ("scheduler.pt", True), ("training_args.bin", False)],
    )
    def test_stock_resume_runs_code_from_the_checkpoint(self, study, checkpoint, tmp_path, name, runs):
        """In ours a checkpoint has no pickle in it; see the last test of this class."""
        config, folder = checkpoint
        shutil.copytree(folder, tmp_path / "planted")
        torch.save(Planted(tmp_path / "it ran"), tmp_path / "planted" / name)
        trainer = stock_dpo(study, fresh_adapter(base_of(study))[0], config={**config, "output_dir": str(tmp_path)})
        with pytest.raises((AttributeError, TypeError)) if runs else contextlib.nullcontext():
            trainer.train(resume_from_checkpoint=str(tmp_path / "planted"))  # fails at what it loaded: too late
        assert (tmp_path / "it ran").exists() == runs

    def test_weights_only_cannot_read_all_of_a_stock_checkpoint(self, checkpoint):
        _, folder = checkpoint
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(folder / name, weights_only=True)
        for name in ("rng_state.pth", "training_args.bin"):
            with pytest.raises(pickle.UnpicklingError):
                torch.load(folder / name, weights_only=True)

    def test_our_code_unpickles_nothing_and_trusts_no_remote_code(self):
        forbidden = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        calls = {"torch.load", "torch.save", "pandas.read_pickle", "DataFrame.to_pickle"}
        sources = sorted((ROOT / "scripts").rglob("*.py"))
        assert len(sources) > 20
        for source in sources:
            for node in ast.walk(ast.parse(source.read_text())):
                where = f"{source.name}, line {getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Import):
                    assert not forbidden & {alias.name.split(".")[0] for alias in node.names}, where
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").split(".")[0] not in forbidden, where
                    assert node.module != "torch" or not {"load", "save"} & {a.name for a in node.names}, where
                if isinstance(node, ast.Attribute):
                    assert ast.unparse(node) not in calls, where
                    assert not node.attr.endswith("_pickle"), where
                if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                    assert isinstance(node.value, ast.Constant), where
                    assert node.value.value is False, where

    @pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU bitsandbytes works")
    def test_8_bit_without_a_gpu(self, study):
        import bitsandbytes

        with pytest.raises(RuntimeError, match="No GPU found"):
            AutoModelForCausalLM.from_pretrained(
                str(study.folder / "model" / "weights"), quantization_config=BitsAndBytesConfig(load_in_8bit=True)
            )
        layer = bitsandbytes.nn.Linear8bitLt(8, 8, has_fp16_weights=False)
        with pytest.raises(RuntimeError, match="NVIDIA"):
            layer.to("cuda")
        weight = torch.nn.Parameter(torch.zeros(4096, 2))
        weight.grad = torch.ones_like(weight)
        with pytest.raises(RuntimeError, match="NVIDIA"):
            bitsandbytes.optim.AdamW8bit([weight]).step()
        for precision in ("int8", "nf4"):
            with pytest.raises(UserError, match=f"model.precision is '{precision}', which needs a CUDA GPU"):
                load_base(card(study), precision)


class TestEnvironment:
    """What the packages need and do not say; pyproject.toml says it for them."""

    @pytest.fixture(scope="class")
    def pins(self):
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
        return dict(entry.split("==") for entry in groups["train"] if "==" in entry)

    def test_a_newer_pyarrow_is_not_ruled_out(self, pins):
        """pyarrow 26 needs numpy 2 at import; datasets and trl allow it."""
        (line,) = [entry for entry in requires("datasets") if entry.startswith("pyarrow ")]
        assert "<" not in line
        assert pins["pyarrow"] == pyarrow.__version__

    def test_undeclared_imports(self, pins):
        attempts = {
            "setuptools": ["import triton", "import bitsandbytes"],
            "rich": ["import trl", "from trl import DPOTrainer"],
        }
        program = f"""
import json, sys
outcome = {{}}
for package, attempts in {attempts!r}.items():
    sys.modules[package] = None
    for attempt in attempts:
        try:
            exec(attempt)
            outcome[attempt] = "fine"
        except (ImportError, RuntimeError) as error:
            outcome[attempt] = str(error)
    del sys.modules[package]
print(json.dumps(outcome))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        outcome = json.loads(done.stdout)
        assert "setuptools" in outcome["import triton"]
        assert "setuptools" in outcome["import bitsandbytes"]
        assert outcome["import trl"] == "fine"  # it imports lazily: no test of an environment
        assert "No module named 'rich" in outcome["from trl import DPOTrainer"]
        for user, package in (("triton", "setuptools"), ("bitsandbytes", "setuptools"), ("trl", "rich")):
            assert not [line for line in requires(user) if line.startswith(package)]
            assert package in pins

    def test_a_star_import_of_trl_is_broken(self):
        with pytest.raises(RuntimeError, match="multitask_prompt_tuning"):
            exec("from trl import *", {})
