"""Our forward pass against the model's own: windows, padding, forks, caches, dtypes; and that a fault is seen."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from arms.job.files import UserError
from arms.scoring import agreement, decoding, generation, logps
from arms.scoring.agreement import check_forward, compare, eager_twin, probe_pairs, row_logps
from arms.stacks import NAME, stack

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
WINDOW = 8
DTYPES = [torch.float32, torch.bfloat16]
SCALES = {torch.float32: 4, torch.bfloat16: 20}


def make(family: str, dtype: torch.dtype = torch.float32, scale: float = 4, **changes) -> torch.nn.Module:
    """A random model whose weights are so large that every token matters to those after it.

    bfloat16 sees a fault only in models that are surer than such (`agreement.TOLERANCE`): these get a larger scale.
    """
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**LLAMA, **changes}))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(scale)
    return model.to(dtype).eval()


@pytest.mark.parametrize("forking", [True, False])
@torch.no_grad()
def test_rows_longer_than_mistrals_window(forking, tmp_path):
    """The measure is transformers' own class, loaded anew, in eager attention, one row at a time."""
    model = make("mistral", sliding_window=WINDOW)
    model.save_pretrained(tmp_path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    unlimited = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", sliding_window=None).eval()
    pairs = probe_pairs(300)
    found = logps.pair_logps(model, logps.pair_batch(pairs, 0, forking), forking, torch.float32)[:2]
    for sums, side in zip(found, ("chosen_ids", "rejected_ids"), strict=True):
        for pair, ours in zip(pairs, sums, strict=True):
            ids, start = torch.tensor([pair["prompt_ids"] + pair[side]]), len(pair["prompt_ids"])
            theirs = [m(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]) for m in (own, unlimited)]
            windowed, whole = (values[start - 1 :].sum() for values in theirs)
            torch.testing.assert_close(ours, windowed, atol=2e-5, rtol=0)
            assert abs(windowed - whole) > 0.1


def test_mistral_with_a_window_of_8_on_rows_of_60_tokens(tmp_path):
    """In training, scoring and generation: within 1e-4 of transformers' own class, eager, one row at a time."""
    model = make("mistral", sliding_window=WINDOW)
    model.save_pretrained(tmp_path)
    own = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(30, 300, (length,), generator=draw).tolist()

    pairs = []
    for prompt, shared in ((20, 10), (35, 5)):
        begun = ids(shared)
        pairs.append({"prompt_ids": ids(prompt), "chosen_ids": begun + ids(60 - prompt - shared)})
        pairs[-1]["rejected_ids"] = begun + ids(50 - prompt - shared)
    for training, forking in ((True, True), (False, True), (False, False)):
        with torch.set_grad_enabled(training):
            batch = logps.pair_batch(pairs, 0, forking)
            found = logps.pair_logps(model.train(training), batch, forking, torch.float32)[:2]
        for sums, side in zip(found, ("chosen_ids", "rejected_ids"), strict=True):
            for pair, ours in zip(pairs, sums, strict=True):
                row, start = torch.tensor([pair["prompt_ids"] + pair[side]]), len(pair["prompt_ids"])
                theirs = row_logps(own, row, torch.float32)[:-1].gather(1, row[0, 1:, None])[start - 1 :].sum()
                assert abs(float(ours) - float(theirs)) < 1e-4
    prompts, new = [ids(60), ids(52), ids(41)], 8
    shared = decoding.shared_beginning(prompts, model.config)
    rows, mask = generation.padded(prompts, shared, 0, torch.device("cpu"))
    with torch.inference_mode():
        given = {stack.CACHE: decoding.read(model.eval(), rows, mask, shared, rows.shape[1] + new)}
        greedy = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0)
        answers = model.generate(input_ids=rows, attention_mask=mask, generation_config=greedy, **given)[
            :, rows.shape[1] :
        ]
        for prompt, answer in zip(prompts, answers.tolist(), strict=True):
            alone = row_logps(own, torch.tensor([prompt + answer]), torch.float32)[len(prompt) - 1 : -1]
            assert (alone.max(-1).values - alone[range(new), answer]).max() < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "cohere", "gpt2", "opt", "bloom"])
def test_architectures_that_are_right(family, dtype):
    changes = {"sliding_window": 4096} if family == "mistral" else {}
    changes |= {"ffn_dim": 64, "word_embed_proj_dim": 32} if family == "opt" else {}
    model = make(family, dtype, **changes)
    before, drawn = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert check_forward(model, dtype) == (family in stack.FORKING)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.num_hidden_layers == len(eager_twin(model).get_submodule(stack_of(model))) == 3
    assert getattr(model.config, "sliding_window", None) == changes.get("sliding_window")


def stack_of(model) -> str:
    """The name of the list of layers."""
    return next(name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList))


def test_the_twin_shares_its_weights():
    model = make("mistral", sliding_window=WINDOW)
    twin = eager_twin(model)
    assert {p.data_ptr() for p in twin.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert twin.config._attn_implementation == "eager" != model.config._attn_implementation


def fork_with(change):
    """fork_batch with a fault in what it makes."""
    right = logps.fork_batch

    def wrong(pairs, pad_id):
        batch = right(pairs, pad_id)
        change(batch)
        return batch

    return {"fork_batch": wrong}


def sees_its_sibling(batch):
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"]).tril()


def runs_on(batch):
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])


def no_padding(sequences, pad_id, right=logps._padded):
    batch = right(sequences, pad_id)
    batch["position_ids"] = batch["position_ids"] + 1
    return batch


def first_kind_everywhere(model):
    """The window of the first kind of layer, for all of them."""
    window = next(iter(right_windows(model).values()))
    return dict.fromkeys(right_windows(model), window)


right_windows = stack.windows


def unscaled(model, hidden):
    return model.get_output_embeddings()(hidden).float()


# What the current stack alone knows: heads that divide or cap, and kinds of layers, of which only the sixth sees all.
KINDS = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "sliding_window": 4096}
NEWER = [] if NAME == "pinned" else [
    ("granite", {"_logits": unscaled}, "padded to the right", DTYPES[:1]),
    ("gemma2", {"_logits": unscaled}, "padded to the right", DTYPES[:1]),
    ("gemma3_text", {"stack.windows": first_kind_everywhere}, "row, beyond the sliding window", DTYPES[:1]),
]  # fmt: skip
OWN = {
    "mistral": {"sliding_window": 4096},
    "gemma3_text": {**KINDS, "head_dim": 8},
    "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 8},
    "granite": {"logits_scaling": 4.0},
}


@pytest.mark.parametrize(
    ("family", "fault", "form", "dtypes"),
    [
        (
            "mistral",
            {"stack.windows": lambda config: {"full_attention": None}},
            "row, beyond the sliding window",
            DTYPES,
        ),
        ("llama", fork_with(sees_its_sibling), "share a row", DTYPES),
        ("llama", fork_with(runs_on), "share a row", DTYPES),
        ("gpt2", {"_padded": no_padding}, "padded to the right", DTYPES[:1]),
        ("cohere", {"_logits": unscaled}, "padded to the right", DTYPES[:1]),
        *NEWER,
    ],
)
def test_a_fault_of_ours_is_seen(monkeypatch, family, fault, form, dtypes):
    for dtype in dtypes:
        model = make(family, dtype, SCALES[dtype], **OWN.get(family, {}))
        assert max(compare(model, dtype).values()) < agreement.TOLERANCE[dtype]
        with monkeypatch.context() as patched:
            for name, wrong in fault.items():
                patched.setattr(f"arms.scoring.logps.{name}", wrong)
            with pytest.raises(UserError, match=form):
                check_forward(model, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_that_cannot_cap_is_seen(dtype):
    """Gemma-2's SDPA leaves out the cap on attention, as its own class in eager attention does not.

    On the current stack transformers takes eager attention for such a model, which check_forward finds right.
    """
    model = make("gemma2", dtype, SCALES[dtype], head_dim=8, sliding_window=4096, attn_logit_softcapping=0.5)
    if NAME == "current":
        assert model.config._attn_implementation == "eager"
        assert check_forward(model, dtype)
        return
    with pytest.raises(UserError, match=r"Gemma2ForCausalLM.*not supported"):
        check_forward(model, dtype)


def test_a_state_that_padding_reaches_is_seen():
    """Jamba's state space layers read the padding in front of a prompt, and on the current stack RWKV's."""
    periods = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    mamba = {"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False}
    model = make("jamba", num_experts=4, **periods, **mamba) if NAME == "pinned" else make("rwkv")
    with pytest.raises(UserError, match="padded to the left"):
        check_forward(model, torch.float32)
