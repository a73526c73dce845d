"""The model that is sampled, and the checkers that grade its answers in their own environment."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from arms.job.files import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SYSTEM = "Follow the instruction exactly."
END_OF_TURN, PAD = "<|im_end|>", 0
TEMPERATURE, TOP_K = 0.8, 40
BATCH = 80


def say(message: str) -> None:
    """One line of progress with the clock."""
    print(f"[make_data {time.strftime('%H:%M:%S')}] {message}", flush=True)


class Sampler:
    """The model in fp32 on the CPU: batched generation and log-probabilities from token ids."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not folder.is_dir():
            raise UserError(
                f"--model {folder}: no such directory; let Snakemake make it: `snakemake results/demo/model/weights`"
            )
        torch.set_num_threads(2)
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.end = self.tokenizer.convert_tokens_to_ids(END_OF_TURN)

    def context(self, prompt: str) -> list[int]:
        """Token ids of the rendered prompt, up to where the answer starts."""
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True)

    def generate(
        self, contexts: list[list[int]], new_tokens: int, seed: int | None, copies: int = 1
    ) -> list[list[int]]:
        """New token ids, up to and with the end of turn, `copies` answers to each context; greedy if `seed` is None.

        A loop of our own instead of transformers' `generate`: it computes logits for the last position only and drops
        the answers that have ended from the batch, which together halve the time on a CPU.
        """
        out: list[list[int]] = []
        size = BATCH // copies
        for start in range(0, len(contexts), size):
            with self.torch.inference_mode():
                noise = None if seed is None else self.torch.Generator().manual_seed(seed + start)
                out += self._generate_batch(contexts[start : start + size], new_tokens, noise, copies)
            say(f"  generated {len(out)} of {len(contexts) * copies}")
        return out

    def _generate_batch(
        self, contexts: list[list[int]], new_tokens: int, noise: object, copies: int
    ) -> list[list[int]]:
        from transformers import DynamicCache

        torch, cache = self.torch, DynamicCache()
        width = max(map(len, contexts))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in contexts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in contexts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        answers: list[list[int]] = [[] for _ in range(len(contexts) * copies)]
        alive = torch.arange(len(answers))
        for step in range(new_tokens):
            hidden = self.model.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            if step == 0:  # the context is read once, whatever the number of answers to it
                hidden = hidden.repeat_interleave(copies, 0)
                mask, positions = mask.repeat_interleave(copies, 0), positions.repeat_interleave(copies, 0)
                cache.key_cache = [layer.repeat_interleave(copies, 0) for layer in cache.key_cache]
                cache.value_cache = [layer.repeat_interleave(copies, 0) for layer in cache.value_cache]
            logits = self.model.lm_head(hidden)
            if noise is None:
                chosen = logits.argmax(-1)
            else:
                best, tokens = logits.topk(TOP_K)
                drawn = torch.multinomial((best / TEMPERATURE).softmax(-1), 1, generator=noise)
                chosen = tokens.gather(1, drawn)[:, 0]
            for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
                answers[row].append(token)
            keep = (chosen != self.end).nonzero()[:, 0]
            if not len(keep):
                break
            alive, positions = alive[keep], positions[keep, -1:] + 1
            ids = chosen[keep, None]
            mask = torch.cat([mask[keep], torch.ones(len(keep), 1, dtype=mask.dtype)], 1)
            if len(keep) < len(chosen):
                cache.key_cache = [layer[keep] for layer in cache.key_cache]
                cache.value_cache = [layer[keep] for layer in cache.value_cache]
        return answers

    def text(self, ids: list[int]) -> str:
        """Token ids as text, without the end of turn."""
        return self.tokenizer.decode([i for i in ids if i not in (self.end, PAD)])

    def ids(self, text: str) -> list[int]:
        """A completion as training sees it: its token ids and the end of turn."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def logp(self, prompt: str, completion: str) -> float:
        """Sum of the log-probabilities of the completion's tokens, end of turn included."""
        torch = self.torch
        context, answer = self.context(prompt), self.ids(completion)
        with torch.inference_mode():
            ids = torch.tensor([context + answer])
            logits = self.model(ids, use_cache=False).logits[0, len(context) - 1 : -1].double()
        return float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())


def grade(rows: list[dict], python: Path) -> list[bool]:
    """Grade rows (prompt, instruction_id_list, kwargs, text) in the grade environment."""
    keys = ("prompt", "instruction_id_list", "kwargs", "text")
    lines = "".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in rows)
    done = subprocess.run(
        [python.absolute(), "-m", "arms.data.grading"],
        input=lines,
        capture_output=True,
        text=True,
        cwd=SCRIPTS,
        check=False,
    )
    if done.returncode:
        raise UserError(f"grading with --grade-python {python} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
