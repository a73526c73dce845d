"""Generation as a function: greedy is transformers' own, no answer depends on its batch, and half an answer goes on."""

import dataclasses
import functools
import importlib

import pytest
import torch
from test_logps import noisy_adapter
from transformers import PretrainedConfig
from transformers.models.llama import modeling_llama

from arms.data.token_rows import read_tokens
from arms.job.files import UserError
from arms.scoring import decoding, generation
from arms.scoring.generation import Generator
from arms.scoring.policy import load_policy
from arms.stacks import NAME

GREEDY = {"max_new_tokens": 40, "temperature": 0.0, "top_p": 1.0, "samples": 1, "batch_size": 5, "seed": 5}
SAMPLED = {**GREEDY, "temperature": 1.3, "top_p": 0.9, "samples": 2}


@pytest.fixture(scope="module", autouse=True)
def _short_rounds():
    """Some answers go into a second step, and some of those into a second round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "STEP", 12)
        patch.setattr(generation, "ROUND", 30)
        yield


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
    assert max(lengths) == GREEDY["max_new_tokens"] > generation.ROUND


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


@pytest.fixture
def watched(policy, monkeypatch):
    """Rows and columns of what the model reads, forward by forward."""
    read, inner = [], policy.model.base_model.model.model
    forward = inner.forward

    @functools.wraps(forward)
    def noting(*args, **kwargs):
        read.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(inner, "forward", noting)
    return read


def test_ended_answers_leave_and_the_others_read_nothing_again(policy, prompts, ends, watched):
    assert policy.model.config.num_key_value_heads < policy.model.config.num_attention_heads
    found = answers(policy, prompts, {**GREEDY, "batch_size": 12}, ends)
    starts = [place for place, (_, columns) in enumerate(watched) if columns > 1]
    assert len(starts) == 2  # of the two rounds
    rows = [rows for rows, _ in watched[: starts[1]]]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == 12 > rows[-1] > 0
    assert sum(rows) < 1.2 * sum(min(len(ids), generation.ROUND) for ids in found.values())


def test_what_all_prompts_begin_with_is_read_once(policy, prompts, ends, watched):
    shown = prompts[0]["prompt_ids"] * 2
    given = [{**row, "prompt_ids": [*shown, 99 + n, *row["prompt_ids"]]} for n, row in enumerate(prompts)]
    found = answers(policy, given, {**GREEDY, "batch_size": 12}, ends)
    longest = max(len(row["prompt_ids"]) for row in given)
    assert watched[:3] == [(1, len(shown)), (12, longest - len(shown) - 1), (12, 1)]
    alone = [answers(policy, [row], GREEDY, ends) for row in given]
    assert found == {key: ids for one in alone for key, ids in one.items()}


def test_heads_that_share_keys_copy_them_only_to_read_a_prompt(policy, prompts, monkeypatch, watched):
    code = modeling_llama if NAME == "pinned" else importlib.import_module("transformers.integrations.sdpa_attention")
    copied, repeat = [], code.repeat_kv
    monkeypatch.setattr(code, "repeat_kv", lambda states, times: copied.append(times) or repeat(states, times))
    answers(policy, prompts[:5], GREEDY)
    assert policy.model.config.num_key_value_heads < policy.model.config.num_attention_heads
    read = [columns for _, columns in watched if columns > 1]
    assert len(copied) == 2 * policy.model.config.num_hidden_layers * len(read), "keys and values of each layer"
    assert len(watched) > 10 * len(read)


def test_no_beginning_is_shared_where_a_window_would_count_the_padding_after_it():
    rows = [[*range(20), 7, 8], [*range(20), 9]]
    assert decoding.shared_beginning(rows, PretrainedConfig()) == 20
    assert decoding.shared_beginning(rows, PretrainedConfig(sliding_window=16)) == 0
    assert decoding.shared_beginning([row[15:] for row in rows], PretrainedConfig()) == 0  # too short
    assert decoding.shared_beginning([rows[0], rows[0][:12]], PretrainedConfig()) == 11  # one token is to be read
    assert decoding.shared_beginning(rows[:1], PretrainedConfig()) == 0


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
