"""Log-probabilities: the forked forward pass, the stacked one and TRL's own arithmetic agree; gradients too."""

import pytest
import torch
from conftest import make_study
from torch.utils._python_dispatch import TorchDispatchMode
from trl import DPOTrainer

from arms.data.token_rows import read_tokens
from arms.data.tokens import load_tokenizer
from arms.model.models import load_base, new_adapter
from arms.scoring import logps
from arms.scoring.agreement import check_forward
from arms.scoring.logps import completion_batch, pair_batch, pair_logps, segment_logps
from arms.stacks import NAME


def noisy_adapter(base, std=0.1):
    """A LoRA adapter that changes the policy: its B matrices are not zero."""
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
    model = new_adapter(base, lora, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=std)
    return model


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def tiny(request, tmp_path_factory):
    """(model, tokenizer, pairs, forking) of one architecture."""
    study = make_study(tmp_path_factory.mktemp(request.param), request.param)
    card = study.folder / "model" / "model.json"
    base = load_base(card, "fp32")
    forking = check_forward(base, torch.float32)
    return noisy_adapter(base), load_tokenizer(card), read_tokens(study.folder / "pairs.parquet"), forking


def trl_sums(logits, labels):
    """Sums of completion log-probabilities by TRL's own arithmetic; 1.16 has it as a function for each token."""
    if NAME == "pinned":
        return DPOTrainer.get_batch_logps(logits, labels)[0]
    from trl.trainer.utils import selective_log_softmax

    asked = labels[:, 1:] >= 0
    return (selective_log_softmax(logits[:, :-1], labels[:, 1:].clamp(min=0)) * asked).sum(-1)


def trl_logps(model, pairs, side, pad_id):
    """TRL's sums of completion log-probabilities, from full logits, one row at a time without padding."""
    sums = []
    for pair in pairs:
        ids = torch.tensor([pair["prompt_ids"] + pair[side]])
        labels = ids.clone()
        labels[:, : len(pair["prompt_ids"])] = -100
        logits = model(input_ids=ids, use_cache=False).logits
        sums.append(trl_sums(logits, labels))
    return torch.cat(sums)


def test_which_architectures_fork(tiny):
    model, _, _, forking = tiny
    kinds = {"pinned": ("llama", "qwen2"), "current": ("llama", "qwen2", "gpt2")}[NAME]
    assert forking == (model.config.model_type in kinds)


def test_pairs_agree_with_trl(tiny):
    model, tokenizer, pairs, forking = tiny
    chosen, rejected, chosen_tokens, rejected_tokens = pair_logps(
        model, pair_batch(pairs, tokenizer.pad_token_id, forking), forking, torch.float32
    )
    for ours, side in ((chosen, "chosen_ids"), (rejected, "rejected_ids")):
        torch.testing.assert_close(ours, trl_logps(model, pairs, side, tokenizer.pad_token_id), atol=2e-5, rtol=0)
    assert chosen_tokens.tolist() == [len(pair["chosen_ids"]) for pair in pairs]
    assert rejected_tokens.tolist() == [len(pair["rejected_ids"]) for pair in pairs]


def test_gradients_of_fork_and_stack_agree(tiny):
    model, tokenizer, pairs, forking = tiny
    gradients = []
    for fork in {forking, False}:
        model.zero_grad()
        chosen, rejected, *_ = pair_logps(model, pair_batch(pairs, tokenizer.pad_token_id, fork), fork, torch.float32)
        torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-3
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, atol=2e-5, rtol=0)


class Logits(TorchDispatchMode):
    """Collects how many tokens have logits at once."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.tokens = vocabulary, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        of_tokens = isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == self.vocabulary
        held = {arg.untyped_storage()._cdata for arg in args if isinstance(arg, torch.Tensor)}
        if of_tokens and out.untyped_storage()._cdata not in held:  # as a view of the head's own weight is
            self.tokens.add(len(out))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_part_of_the_tokens_give_the_same_sums_and_gradients(tiny, dtype, monkeypatch):
    model, tokenizer, pairs, fork = tiny
    batch, found, seen = pair_batch(pairs, tokenizer.pad_token_id, fork), [], []
    for tokens in (10**6, 7):
        monkeypatch.setattr(logps, "LOGITS", tokens * model.config.vocab_size)
        model.zero_grad()
        with Logits(model.config.vocab_size) as logits:
            chosen, rejected, *_ = pair_logps(model, batch, fork, dtype)
            torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat([chosen.detach(), rejected.detach(), *gradients]))
        seen.append(max(logits.tokens))
    assert seen[0] > 7 == seen[1]
    assert found[0].abs().max() > 1
    torch.testing.assert_close(*found, atol={torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype], rtol=1e-3)


def test_sft_rows_agree_with_cross_entropy(tiny):
    model, tokenizer, pairs, _ = tiny
    batch = completion_batch([(p["prompt_ids"], p["chosen_ids"]) for p in pairs], tokenizer.pad_token_id)
    sums, counts = segment_logps(model, batch, 1, torch.float32)
    labels = torch.where(batch["segment"] > 0, batch["input_ids"], -100)
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False)
    torch.testing.assert_close(-sums.sum() / counts.sum(), theirs.loss, atol=2e-5, rtol=0)
