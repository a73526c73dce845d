"""The go/no-go checklist: what may go wrong in such a study, where it is prevented, which test shows that.

tools/checklist.py writes it to docs/checklist.md; the report says of each item how it stands in the study at hand
(display/standing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from display import standing
from display.standing import Finding, Records


@dataclass(frozen=True)
class Item:
    """One line. enforced, tests: `path: name` in the repository. state: how it stands in a study."""

    name: str
    rule: str
    enforced: tuple[str, ...]
    tests: tuple[str, ...]
    state: Callable[[Records], Finding]


TRAPS = "tests/unit/train/test_traps.py"
DPO = "tests/unit/train/test_dpo.py"
PARITY = "tests/unit/train/test_parity.py"
COMPARE = "tests/unit/stats/test_compare.py"

ITEMS = {
    "Before anything trains": (
        Item(
            "Pins logged",
            "Every job finds the exact versions of the lock, and says in its manifest what it found.",
            ("scripts/arms/job/manifest.py: check_versions", "tools/pin_envs.py"),
            (
                "tests/workflow/test_verify.py: test_off_lock_is_refused_unless_allowed_and_then_recorded",
                "tests/workflow/test_environments.py: test_yaml_and_lock_agree",
            ),
            standing.pins,
        ),
        Item(
            "One base model",
            "All arms load one base; a byte of it that changed later is an error.",
            ("scripts/arms/model/models.py: load_base", "scripts/arms/model/models.py: read_arm"),
            (
                f"{DPO}: test_an_adapter_of_another_base_is_refused",
                "tests/workflow/test_gates.py: test_an_adapter_on_another_base",
            ),
            standing.base,
        ),
        Item(
            "LoRA targets",
            "The modules that LoRA names are in this architecture, and every arm trains as many parameters.",
            ("scripts/arms/model/fit.py", "scripts/check_parity.py: WORLD"),
            (
                "tests/unit/train/test_fetch_model.py: test_what_the_study_asks_of_a_model",
                f"{DPO}: test_the_fresh_start_trains_as_much_as_dpo_only",
            ),
            standing.targets,
        ),
        Item(
            "Padding and EOS",
            "The padding token is never EOS, and EOS is trained once in every arm.",
            ("scripts/arms/model/base_card.py: choose_pad", "scripts/arms/data/encoding.py: Encoder"),
            (
                "tests/unit/train/test_fetch_model.py: test_padding_never_is_the_end_token",
                "tests/unit/train/test_tokens.py: test_eos_is_trained_once_in_every_arm",
                f"{TRAPS}: TestPaddingAndEos.test_pad_equal_to_eos_means_that_sft_never_trains_to_stop",
            ),
            standing.padding,
        ),
        Item(
            "One prompt text",
            "SFT, DPO, scoring and generation see a prompt in the same tokens: template, BOS, truncation.",
            ("scripts/arms/data/tokens.py: encode_prompts", "scripts/arms/data/templates.py: describe_template"),
            (
                "tests/unit/train/test_tokens.py: test_all_kinds_of_rows_have_the_same_prompt",
                f"{TRAPS}: TestBos.test_our_prompts_are_equal_in_sft_dpo_and_generation",
            ),
            standing.template,
        ),
        Item(
            "Identical pairs",
            "A pair whose answers are the same text, or the same tokens, is refused with its line.",
            ("scripts/arms/data/audit.py: check_pair", "scripts/arms/data/encoding.py: Encoder"),
            (
                "tests/unit/grade/test_check_data.py: test_bad_pairs_are_refused",
                "tests/unit/train/test_tokens.py: test_a_pair_that_the_tokenizer_makes_alike_is_refused",
            ),
            standing.pairs,
        ),
        Item(
            "Held-out is held out",
            "A held-out prompt that is trained on stops the study; near ones are told.",
            ("scripts/arms/data/checks.py: check_leakage", "scripts/paired/decision.py: check_gates"),
            (
                "tests/unit/grade/test_check_data.py: test_a_heldout_prompt_that_is_trained_on_is_refused",
                "tests/workflow/test_bad_input.py: test_a_heldout_prompt_that_is_trained_on",
            ),
            standing.leakage,
        ),
        Item(
            "The plan is on record",
            "Metrics, margins, contrasts and seeds are frozen before a score exists; a change is marked exploratory.",
            ("scripts/freeze_plan.py", "scripts/paired/freeze.py: changes_on_record"),
            (
                f"{COMPARE}: test_a_plan_changed_after_it_was_frozen",
                f"{COMPARE}: test_scores_before_any_plan_are_exploratory",
                f"{COMPARE}: test_seeds_are_part_of_the_plan",
            ),
            standing.plan,
        ),
    ),
    "Training": (
        Item(
            "The right reference",
            "With a kept SFT adapter TRL 0.9.6 takes the base as reference; here it is a table of the run's own start.",
            ("scripts/arms/scoring/tables.py: read_table", "scripts/arms/training/dpo.py: TableDPOTrainer"),
            (
                f"{TRAPS}: TestReference.test_a_kept_sft_adapter_without_ref_model_is_trained_against_the_base",
                f"{DPO}: test_a_table_of_another_policy_is_refused",
                "tests/workflow/test_gates.py: test_the_reference_table_of_another_seed",
            ),
            standing.reference,
        ),
        Item(
            "Reference headroom",
            "The reference needs no memory in training; precompute_ref_log_probs, which 0.9.6 ignores, is not used.",
            ("scripts/arms/training/pairs.py: with_reference", "scripts/arms/memory/plan.py: refusal"),
            (
                f"{TRAPS}: TestPrecomputedReference.test_the_flag_only_adds_reference_passes",
                f"{TRAPS}: TestPrecomputedReference.test_our_table_is_read",
                "tests/unit/train/test_memory.py: test_the_plan_is_what_the_programs_need",
            ),
            standing.headroom,
        ),
        Item(
            "Step-0 loss",
            "Before the first update the loss is its closed form (ln 2 for the sigmoid loss), or nothing is trained.",
            ("scripts/arms/training/dpo.py: check_step0", "scripts/arms/training/gates.py: require_step0"),
            (
                f"{DPO}: test_step0_loss_is_ln2_in_both_arms",
                f"{DPO}: test_step0_closed_forms",
                f"{DPO}: test_the_gate_catches_the_base_as_reference",
            ),
            standing.step0,
        ),
        Item(
            "The policy moved",
            "After training the adapter is another and the margins moved, or the run fails.",
            ("scripts/arms/training/gates.py: check_moved", "scripts/check_parity.py: main"),
            (
                f"{DPO}: test_a_policy_that_stayed_where_it_was_is_refused",
                f"{TRAPS}: TestResumeAndSeeds.test_the_seed_does_not_reach_the_adapters_initialisation",
            ),
            standing.moved,
        ),
        Item(
            "No merge of a quantised adapter",
            "An SFT adapter is trained further, stacked, or merged on purpose; never on int8 or nf4, where it rounds.",
            (
                "scripts/arms/model/models.py: stack_adapter",
                "scripts/arms/model/models.py: joined_state",
                "scripts/study/starts.py: check_start",
            ),
            (
                "tests/unit/driver/test_starts.py: test_merged_weights_of_a_quantised_base_are_refused",
                "tests/unit/train/test_merging.py: test_its_policy_is_the_base_with_the_adapter",
                f"{DPO}: test_a_fresh_adapter_starts_at_the_sft_policy_and_is_saved_as_one",
                f"{TRAPS}: TestReference.test_an_sft_adapter_with_a_peft_config_is_merged_away",
            ),
            standing.merging,
        ),
        Item(
            "Same tokens in all arms",
            "Text becomes ids once; every run of a stage reads that file, and as many tokens of it.",
            ("scripts/tokenize_data.py: main", "scripts/check_parity.py: STAGE"),
            (
                f"{PARITY}: test_one_field_that_differs_stops_the_study",
                "tests/workflow/test_gates.py: test_another_row_of_the_pairs_for_one_arm",
            ),
            standing.tokens,
        ),
        Item(
            "Same recipe in all arms",
            "Rate, schedule, batch, steps, optimiser, clipping, beta: compared as training observed them.",
            ("scripts/arms/training/observation.py: observe", "scripts/check_parity.py: compare"),
            (
                f"{PARITY}: test_a_trainer_that_was_altered_shows_it",
                f"{PARITY}: test_equal_runs_are_alike_in_everything_that_is_named",
            ),
            standing.parity,
        ),
        Item(
            "Dropout",
            "TRL turns LoRA's dropout off in DPO and leaves it on in SFT; here both stages have the same.",
            ("scripts/arms/model/models.py: prepare_training",),
            (
                f"{TRAPS}: TestReference.test_lora_dropout_is_off_in_dpo_or_else_makes_the_reference_noisy",
                "tests/workflow/test_gates.py: test_dropout_in_one_arm",
            ),
            standing.dropout,
        ),
        Item(
            "Same order of batches",
            "Both DPO arms of a seed see the same rows in the same order.",
            ("scripts/arms/training/curves.py: Curves", "scripts/check_parity.py: ORDER"),
            (f"{PARITY}: test_one_field_that_differs_stops_the_study",),
            standing.order,
        ),
        Item(
            "Seeds reach everything",
            "The seed decides order and adapter; TRL sets it too late for the adapter.",
            ("scripts/arms/model/models.py: new_adapter",),
            (f"{TRAPS}: TestResumeAndSeeds.test_the_seed_does_not_reach_the_adapters_initialisation",),
            standing.seeded,
        ),
        Item(
            "Out-of-memory history",
            "What did not fit is on record, and all runs of a stage train on what does, with the same effective batch.",
            ("scripts/probe_memory.py: main", "scripts/arms/memory/ladder.py: Rung"),
            (
                "tests/unit/train/test_ladder.py: test_a_surprise_in_training_is_recorded_refused_and_probed_again",
                "tests/workflow/test_ladder.py: test_the_same_command_goes_down_the_ladder_and_the_arms_never_differ",
            ),
            standing.memory,
        ),
        Item(
            "Interruptions",
            "A killed run goes on to the bytes of one that was not; a loss that is not finite stops it.",
            ("scripts/arms/training/checkpoints.py: Checkpoints", "scripts/arms/training/gates.py: require_finite"),
            (
                "tests/unit/train/test_resume.py: test_killed_and_resumed_equals_uninterrupted",
                f"{TRAPS}: TestSafety.test_stock_resume_runs_code_from_the_checkpoint",
            ),
            standing.resumed,
        ),
    ),
    "Evaluation": (
        Item(
            "Paired tests",
            "Arms are compared prompt by prompt, by exact sign-flip tests, adjusted within their family.",
            ("scripts/paired/signflip.py: signflip", "scripts/paired/families.py: make_claims"),
            (
                "tests/unit/stats/test_paired_methods.py: test_enumeration_and_lattice_equal_brute_force",
                "tests/unit/stats/test_paired_methods.py: test_mcnemar_is_the_sign_flip_of_one_seed",
                "tests/unit/stats/test_paired_oracles.py: test_oracle",
            ),
            standing.paired,
        ),
        Item(
            "One seed reported",
            "With fewer than three seeds nothing is claimed about the method, and the page says so.",
            ("scripts/paired/families.py: scope_of", "scripts/paired/decision.py: make_banner"),
            (f"{COMPARE}: test_too_few_seeds_fall_back_to_claims_about_checkpoints",),
            standing.seeds,
        ),
        Item(
            "Missing outputs",
            "An answer that fails counts at its worst; arms that miss more than others are no basis.",
            ("scripts/paired/scores.py: Scores", "scripts/paired/decision.py: check_gates"),
            (
                f"{COMPARE}: test_a_model_that_answers_nothing_does_not_gain",
                "tests/unit/stats/test_paired_oracles.py: test_missing",
            ),
            standing.gate(
                "coverage", "at most 2% of any arm's outputs are missing", "too many outputs are missing, or unevenly"
            ),
        ),
        Item(
            "Distinct arms",
            "Arms that answer alike, word for word, make the study invalid: an adapter was not in effect.",
            ("scripts/paired/decision.py: check_gates",),
            (f"{COMPARE}: test_arms_with_the_same_outputs_make_the_study_invalid",),
            standing.gate(
                "distinct_outputs", "different arms gave different outputs", "some arms gave the same outputs"
            ),
        ),
    ),
    "Records": (
        Item(
            "Manifests",
            "Every target has one: settings, code, inputs and outputs by sha256, versions, machine.",
            ("scripts/arms/job/manifest.py: Job", "scripts/verify.py: main"),
            (
                "tests/workflow/test_verify.py: test_manifests_are_complete",
                "tests/workflow/test_verify.py: test_each_fault_is_found_and_nothing_else_is_blamed",
            ),
            standing.manifests,
        ),
    ),
}


def findings(records: Records) -> dict[str, list[dict]]:
    """The report's checklist: section -> its rows, of name, rule, enforced, good and words (`Finding`)."""
    return {
        section: [
            {"name": item.name, "rule": item.rule, "enforced": item.enforced, **item.state(records)._asdict()}
            for item in items
        ]
        for section, items in ITEMS.items()
    }


def page() -> str:
    """docs/checklist.md."""
    lines = [
        "# Go/no-go checklist",
        "",
        "What may go wrong in such a study, where it is prevented, and which test shows that it is. Made from",
        "`scripts/display/checklist.py` by `make docs`. A study's report has the list with how each item stands there.",
    ]
    for section, items in ITEMS.items():
        lines += [
            "",
            f"## {section}",
            "",
            "| item | what must hold | where it is enforced | what shows it |",
            "|---|---|---|---|",
        ]
        for item in items:
            cells = ["<br>".join(f"`{one}`" for one in found) for found in (item.enforced, item.tests)]
            lines.append(f"| {item.name} | {item.rule} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
