"""Token rows: a data set's rows as ids, made and read in batches, so that memory does not grow with their number."""

from __future__ import annotations

import functools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

from arms.data.rows import TEXTS
from arms.data.templates import Prompt, describe_template, left_out, peculiarities, prompt_text
from arms.data.token_rows import token_tables
from arms.data.tokens import control_tokens, cut, encode_completions, encode_prompts, encode_rendered
from arms.data.turns import CONTEXT, keep_whole_answers, train_all_turns
from arms.job.files import UserError
from arms.job.workers import in_order

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

BATCH = 256  # rows that go through the tokenizer at once
ALONE = 32  # batches before other processes are worth their start
SHOWN = 5  # overlong rows in a message
COMPLETIONS = {kind: texts[1:] for kind, texts in TEXTS.items()}
# What a template raises that takes for granted what only tools or newer packages give it, such as a list of tools.
BROKEN = (TypeError, ValueError, AttributeError, KeyError, IndexError)


def described(tokenizer: PreTrainedTokenizerBase, settings: dict) -> dict:
    """The same as `describe_template`; UserError, too, for a template that the pinned packages cannot render."""
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        if tokenizer.chat_template or settings["template"] != "chat":
            prompt_text(tokenizer, "{prompt}", settings)
    except (TemplateSyntaxError, *BROKEN) as error:
        raise UserError(
            f"the model's chat template needs what its transformers does not offer ({error}): correct a copy of "
            "it (model.source: path), or set tokens.template to a text with the placeholder {prompt}"
        ) from None
    except TemplateError:  # said below
        pass
    return describe_template(tokenizer, settings)


def peculiar(tokenizer: PreTrainedTokenizerBase, settings: dict) -> list[str]:
    """The same as `peculiarities`, also of a template that cannot render every conversation."""
    try:
        return peculiarities(tokenizer, settings)
    except BROKEN as error:
        return [f"the model's chat template cannot render every conversation ({error})"]


def row_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, settings: dict, place: str) -> str:
    """The prompt of a row as the model sees it; UserError where the chat template does not take its turns."""
    from jinja2 import TemplateError

    try:
        return prompt_text(tokenizer, prompt, settings)
    except (TemplateError, *BROKEN) as error:
        raise UserError(
            f"{place}: the model's chat template refuses these turns: {error}; leave out of the rows what it does not "
            "take (such as their system turn), or set tokens.template to a text with the placeholder {prompt}"
        ) from None


class Encoder:
    """Tokenises the rows of one data set, and knows afterwards what was found.

    kind: "sft", "pairs" or "prompts". A row with more than settings["max_length"] tokens (prompt + longest completion)
    is treated as settings["on_overlong"] says:

        error     refused
        drop      left out
        truncate  its longer completions are cut to the room that the prompt leaves, and end in EOS again unless
                  settings["eos_after_truncation"] is false. Prompts are never cut (that would take BOS, the system turn
                  or the end of the template): a row whose prompt leaves less than 2 tokens is left out, and so is a
                  pair that the cut makes identical.

    SFT rows with settings["assistant_turns"] "all" train every assistant turn (`arms.data.turns`). Truncated, such a
    row ends with the last of its answers that fits whole; if none does, in its first.

    source: what messages call the file of rows that do not say themselves where they stood.
    """

    def __init__(self, kind: str, tokenizer: PreTrainedTokenizerBase, settings: dict, source: str) -> None:
        self.kind, self.tokenizer, self.settings, self.source = kind, tokenizer, settings, source
        self.decided, self.control = described(tokenizer, settings), control_tokens(tokenizer)
        self.all_turns = kind == "sft" and settings.get("assistant_turns") == "all"
        self.frames: dict[tuple[str, ...], list[int]] = {}
        self.eos_after = tokenizer.eos_token_id if settings["eos_after_truncation"] else None
        self.least = 2 if COMPLETIONS[kind] else 1  # tokens after the prompt that must fit: EOS and one more
        self.found = Found(kind)

    def rows(self, rows: Iterable[dict]) -> Iterator[dict]:
        """Rows with id, category, prompt_ids and one *_ids column a completion, in order; those left out are skipped.

        Raises UserError naming file and row, and at the end if overlong rows are refused or no row is left.
        """
        for encoded, found in map(self.encode, batches(rows)):
            self.found.extend(found)
            yield from encoded
        self._require_rows()

    def tables(self, rows: Iterable[dict], processes: int, make: Callable[[], Encoder]) -> Iterator[pyarrow.Table]:
        """The same as tables, made by several processes where there are many rows.

        make: an encoder like this one, in a process that begins from nothing.
        """
        made = in_order(self.encode_table, batches(rows), processes, functools.partial(_table_encoder, make), ALONE)
        for table, found in made:
            self.found.extend(found)
            if table:
                yield table
        self._require_rows()

    def encode_table(self, batch: list[dict]) -> tuple[pyarrow.Table | None, Found]:
        """Token rows of a batch as a table, None if none is kept, and what was found."""
        encoded, found = self.encode(batch)
        return next(token_tables(encoded), None), found

    def encode(self, batch: list[dict]) -> tuple[list[dict], Found]:
        """Token rows of a batch of rows, and what was found in them."""
        found, kept = Found(self.kind), []
        prompts = list(map(self._rendered, batch))
        for row, rendered, encoded in zip(batch, prompts, self._encode(batch, prompts), strict=True):
            found.read += 1
            place = self._place(row)
            if changed := left_out(rendered, row.get("_turns") or []):
                found.altered.append((place, changed[0]))
            self._check(encoded, self._frame(row.get("_turns")), place)
            if self.all_turns:
                train_all_turns(self.tokenizer, row, encoded, self.settings, place)
            if self._fits(encoded, row["_row"], place, found):
                found.add(encoded, self.tokenizer.bos_token_id)
                kept.append(encoded)
        return kept, found

    def audit(self) -> dict:
        """What was found, after all rows.

        In "overlong", `rows` are the lines of all longer rows, `by_side` says what was too long, `cut` and `lost_eos`
        count completions by side, and `identical` counts the pairs that were left out.
        """
        found = self.found
        overlong = {
            "action": self.settings["on_overlong"],
            "rows": found.overlong,
            "by_side": dict(found.by_side),
            "cut": dict(found.cuts),
            "lost_eos": dict(found.cuts) if self.eos_after is None else {},
            "identical": found.identical,
        }
        return {
            "rows": found.read,
            "kept": found.kept,
            "decided": self.decided,
            "overlong": overlong,
            "template": self._of_the_template(),
            "tokens": {name: _quantiles(lengths) for name, lengths in found.lengths.items()},
            "starts_with_bos": found.starts_with_bos,
            "first_token_differs": found.early / found.kept if self.kind == "pairs" else None,
        }

    def _of_the_template(self) -> list[str]:
        """What the chat template does with what it is given, and in which rows it leaves a turn out."""
        found, altered = peculiar(self.tokenizer, self.settings), self.found.altered
        if altered:
            place, role = altered[0]
            found.append(
                f"the model's chat template leaves out or changes the text of a turn in {len(altered)} rows, first the "
                f"{role}'s in {place}"
            )
        return found

    def _place(self, row: dict) -> str:
        return row.get("_place") or f"{self.source}, line {row['_row']}"

    def _rendered(self, row: dict) -> str:
        if row.get("_turns") and self.settings["template"] != "chat":
            raise UserError(
                f"{row['_place']}: a conversation of several turns needs tokens.template: chat; a text has room for one"
            )
        return row_text(self.tokenizer, row.get("_turns") or row["prompt"], self.settings, self._place(row))

    def _encode(self, batch: list[dict], prompts: list[str]) -> Iterator[dict]:
        columns = {"prompt_ids": encode_rendered(self.tokenizer, prompts)}
        for side in COMPLETIONS[self.kind]:
            columns[f"{side}_ids"] = encode_completions(self.tokenizer, [row[side] for row in batch])
        for row, *ids in zip(batch, *columns.values(), strict=True):
            yield {"id": row["id"], "category": row["category"], **dict(zip(columns, ids, strict=True))}

    def _fits(self, encoded: dict, line: int, place: str, found: Found) -> bool:
        """Whether the row is kept, its completions cut where that is asked for."""
        room = self.settings["max_length"] - len(encoded["prompt_ids"])
        too_long = [side for side in COMPLETIONS[self.kind] if len(encoded[f"{side}_ids"]) > room]
        too_long = too_long if room >= self.least else ["prompt"]
        if not too_long:
            return True
        found.by_side.update(too_long)
        found.overlong.append(line)
        found.shown += [place] if len(found.shown) < SHOWN else []
        if self.settings["on_overlong"] != "truncate" or too_long == ["prompt"]:
            return False
        for side in too_long:
            if encoded.get(CONTEXT):
                keep_whole_answers(encoded, room)
            if len(encoded[f"{side}_ids"]) > room:
                encoded[f"{side}_ids"] = cut(encoded[f"{side}_ids"], room, self.eos_after)
        if self.kind == "pairs" and encoded["chosen_ids"] == encoded["rejected_ids"]:
            found.identical += 1
            return False
        found.cuts.update(too_long)
        return True

    def _require_rows(self) -> None:
        """UserError if overlong rows are to be refused, or no row is left."""
        limit, overlong, shown = self.settings["max_length"], self.found.overlong, "; ".join(self.found.shown)
        if overlong and self.settings["on_overlong"] == "error":
            raise UserError(
                f"{len(overlong)} rows are longer than tokens.max_length = {limit} tokens ({shown}"
                f"{', ...' if len(overlong) > SHOWN else ''}; {dict(self.found.by_side)}); raise tokens.max_length, "
                "shorten the rows, leave them out (data.<set>: {path: ..., max_characters: ...}), or (training rows) "
                "set tokens.on_overlong to drop or truncate"
            )
        if not self.found.kept:
            raise UserError(f"{self.source}: no row is left within tokens.max_length = {limit} tokens")

    def _frame(self, turns: list[dict[str, str]] | None) -> list[int] | None:
        """The ids of a prompt with as many turns, without any special token in its own texts; None without a template.

        A text as the template leaves EOS and BOS to the prompts, which may be conversations, rendered beforehand.
        """
        roles = tuple(turn["role"] for turn in turns or [])
        if self.settings["template"] == "chat" and roles not in self.frames:
            empty = [{"role": role, "content": "x"} for role in roles] or "x"
            self.frames[roles] = encode_prompts(self.tokenizer, [empty], self.settings)[0]
        return self.frames.get(roles)

    def _check(self, encoded: dict, frame: list[int] | None, where: str) -> None:
        """Refuse what silently spoils training: control tokens in a text, no text at all, a pair without a difference.

        frame: see `_frame`.
        """
        prompt, sides = encoded["prompt_ids"], COMPLETIONS[self.kind]
        for number in sorted(self.control.keys() & set(prompt)):
            allowed: list = prompt if frame is None and self.control[number] != "pad" else frame or []
            if prompt.count(number) > allowed.count(number):
                self._refuse_token(where, "prompt", number)
        for side in sides:
            for number in sorted(self.control.keys() & set(encoded[f"{side}_ids"][:-1])):
                self._refuse_token(where, side, number)
        for side in sides:
            if len(encoded[f"{side}_ids"]) < 2:
                raise UserError(f"{where}: {side!r} has no token but EOS; remove the row or give it a text")
        if self.kind == "pairs" and encoded["chosen_ids"] == encoded["rejected_ids"]:
            raise UserError(f"{where}: 'chosen' and 'rejected' are the same to this model's tokenizer; remove the row")

    def _refuse_token(self, where: str, side: str, number: int) -> NoReturn:
        token, name = self.tokenizer.convert_ids_to_tokens(number), self.control[number]
        raise UserError(f"{where}: {side!r} has the {name} token {token!r} in its text; remove it or leave out the row")


class Found:
    """What an encoder found in some rows; `extend` adds what it found in the rows that come next."""

    def __init__(self, kind: str) -> None:
        self.read = self.kept = self.identical = self.early = 0
        self.starts_with_bos = True
        self.overlong: list[int] = []  # lines
        self.shown: list[str] = []  # the first of them, in words
        self.altered: list[
            tuple[str, str]
        ] = []  # rows with a turn that the template does not give as it is: place, role
        self.by_side: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self.lengths = {f"{side}_ids": array("q") for side in ("prompt", *COMPLETIONS[kind])}

    def add(self, encoded: dict, bos: int | None) -> None:
        """A row that is kept."""
        self.kept += 1
        for name, lengths in self.lengths.items():
            lengths.append(len(encoded[name]))
        self.starts_with_bos &= encoded["prompt_ids"][0] == bos
        if "chosen_ids" in encoded:
            self.early += encoded["chosen_ids"][0] != encoded["rejected_ids"][0]

    def extend(self, later: Found) -> None:
        """What was found in the rows after these."""
        for name in ("read", "kept", "identical", "early", "overlong", "altered", "by_side", "cuts"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.shown = (self.shown + later.shown)[:SHOWN]
        self.starts_with_bos &= later.starts_with_bos
        for name, lengths in self.lengths.items():
            lengths.extend(later.lengths[name])


def _table_encoder(make: Callable[[], Encoder]) -> Callable[[list[dict]], tuple[pyarrow.Table | None, Found]]:
    return make().encode_table


def batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """The rows, BATCH at a time."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {"min": ordered[0], "median": ordered[last // 2], "p95": ordered[round(last * 0.95)], "max": ordered[last]}


def take_in_turn(rows: Iterable[dict], limit: int | None, categories: Iterable[str]) -> Iterator[dict]:
    """The first `limit` rows when categories are served in turn, in file order; all rows if it is None or larger.

    categories: those of all rows, in the same order.
    """
    if limit is None:
        yield from rows
        return
    served: Counter[str] = Counter()
    turns = []
    for position, category in enumerate(categories):
        turns.append((served[category], position))
        served[category] += 1
    chosen = {position for _, position in sorted(turns)[:limit]}
    yield from (row for position, row in enumerate(rows) if position in chosen)
