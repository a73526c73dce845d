"""Generation as a function: greedy is transformers' own, no answer depends on its batch, and half an answer goes on."""

import dataclasses

import pytest
import torch
from test_logps import noisy_adapter

from arms.data.token_rows import read_tokens
from arms.job.files import UserError
from arms.scoring.generation import ROUND, Generator
from arms.scoring.policy import load_policy

GREEDY = {"max_new_tokens": 40, "temperature": 0.0, "top_p": 1.0, "samples": 1, "batch_size": 5, "seed": 5}
SAMPLED = {**GREEDY, "temperature": 1.3, "top_p": 0.9, "samples": 2}


@pytest.fixture(scope="module")
def policy(study):
    """A policy whose answers vary; those of the study's own models repeat one token."""
    base = load_policy(study.folder / "model" / "model.json", None, "fp32")
    return dataclasses.replace(base, model=noisy_adapter(base.model, std=0.5).eval())


@pytest.fixture(scope="module")
def prompts(study):
    """Prompts of several lengths."""
    rows = read_tokens(study.folder / "pairs.parquet")[:12]
    return [{**row, "prompt_ids": row["prompt_ids"][: 8 + number % 3]} for number, row in enumerate(rows)]


def answers(policy, prompts, settings, ends=(), begun=None, batches=None):
    """{(prompt, sample): ids}, after all batches or the first `batches`."""
    generator = Generator(policy, settings)
    generator.ends |= set(ends)
    generator.config.eos_token_id = sorted(generator.ends)
    samples = generator.samples(prompts, begun)
    for number, _ in enumerate(generator.rounds(samples), start=1):
        if number == batches:
            break
    return {(sample.prompt_id, sample.sample_idx): sample.ids for sample in samples}


@pytest.fixture(scope="module")
def ends(policy, prompts):
    """Two tokens that end some answers in their first or second round; this model hardly ends one of its own accord."""
    first, second, *_ = answers(policy, prompts, GREEDY).values()
    return {first[12], second[25]}


def test_an_answer_longer_than_the_model_is_refused_before_any_begins(policy, prompts):
    room = policy.model.config.max_position_embeddings - max(len(row["prompt_ids"]) for row in prompts)
    assert Generator(policy, {**GREEDY, "max_new_tokens": room}).samples(prompts)
    with pytest.raises(UserError, match=r"generation.max_new_tokens makes rows of 2049 tokens.*takes at most 2048"):
        Generator(policy, {**GREEDY, "max_new_tokens": room + 1}).samples(prompts)


def test_greedy_is_what_transformers_generates_for_each_prompt_alone(policy, prompts, ends):
    ours, lengths = answers(policy, prompts, GREEDY, ends), set()
    for row in prompts:
        ids = torch.tensor([row["prompt_ids"]])
        eos = sorted({policy.tokenizer.eos_token_id, *ends})
        theirs = policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, eos_token_id=eos,
            pad_token_id=policy.tokenizer.pad_token_id,
        )  # fmt: skip
        assert ours[row["id"], 0] == theirs[0, ids.shape[1] :].tolist()
        lengths.add(len(ours[row["id"], 0]))
    assert len(lengths) > 3
    assert max(lengths) == GREEDY["max_new_tokens"] > ROUND  # some went into a second round


def test_greedy_answers_do_not_depend_on_the_batch(policy, prompts, ends):
    found = [answers(policy, prompts, {**GREEDY, "batch_size": size}, ends) for size in (1, 5, 12)]
    assert found[0] == found[1] == found[2]
    assert answers(policy, prompts[::-1], GREEDY, ends) == found[0]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_half_a_state_goes_on_to_the_same_answers(policy, prompts, ends, settings):
    whole = answers(policy, prompts, settings, ends)
    for batches in (1, 2, 3):
        half = answers(policy, prompts, settings, ends, batches=batches)
        assert half != whole
        assert answers(policy, prompts, settings, ends, begun=list(half.values())) == whole


def test_samples_differ_and_the_seed_decides_them(policy, prompts):
    found = answers(policy, prompts, SAMPLED)
    assert any(found[row["id"], 0] != found[row["id"], 1] for row in prompts)
    assert answers(policy, prompts, SAMPLED) == found
    assert answers(policy, prompts, {**SAMPLED, "seed": 6}) != found


def test_the_outcome_of_an_answer(policy, prompts):
    generator = Generator(policy, GREEDY)
    (sample,) = generator.samples(prompts[:1])
    eos, word = policy.tokenizer.eos_token_id, policy.tokenizer("river")["input_ids"]
    for ids, status in (([*word, eos], "ok"), (word, "truncated"), ([eos], "empty")):
        sample.ids = ids
        assert generator.outcome(sample)["status"] == status
        assert generator.outcome(sample)["n_tokens"] == len(ids)
