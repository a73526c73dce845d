"""Token rows: a data set's rows as ids, made and read in batches, so that memory does not grow with their number."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, overload

from arms.data.rows import TEXTS
from arms.data.templates import describe_template
from arms.data.tokens import control_tokens, cut, encode_completions, encode_prompts
from arms.data.turns import CONTEXT, keep_whole_answers, train_all_turns
from arms.job.files import UserError, atomic_path

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

BATCH = 256  # rows that go through the tokenizer at once
GROUP = 2048  # rows of a row group of a token file
SHOWN = 5  # overlong rows in a message
COMPLETIONS = {kind: texts[1:] for kind, texts in TEXTS.items()}


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
        self.decided, self.control = describe_template(tokenizer, settings), control_tokens(tokenizer)
        self.all_turns = kind == "sft" and settings.get("assistant_turns") == "all"
        self.frames: dict[tuple[str, ...], list[int]] = {}
        self.eos_after = tokenizer.eos_token_id if settings["eos_after_truncation"] else None
        self.least = 2 if COMPLETIONS[kind] else 1  # tokens after the prompt that must fit: EOS and one more
        self.read = self.kept = self.identical = self.early = 0
        self.starts_with_bos = True
        self.overlong: list[int] = []
        self.shown: list[str] = []
        self.by_side: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self.lengths = {f"{side}_ids": array("q") for side in ("prompt", *COMPLETIONS[kind])}

    def rows(self, rows: Iterable[dict]) -> Iterator[dict]:
        """Rows with id, category, prompt_ids and one *_ids column a completion, in order; those left out are skipped.

        Raises UserError naming file and row, and at the end if overlong rows are refused or no row is left.
        """
        remaining = map(self._renderable, rows)
        while batch := list(islice(remaining, BATCH)):
            for row, encoded in zip(batch, self._encode(batch), strict=True):
                self.read += 1
                place = row.get("_place") or f"{self.source}, line {row['_row']}"
                self._check(encoded, self._frame(row.get("_turns")), place)
                if self.all_turns:
                    train_all_turns(self.tokenizer, row, encoded, self.settings, place)
                if self._fits(encoded, row["_row"], place):
                    self._remember(encoded)
                    yield encoded
        self._require_rows()

    def audit(self) -> dict:
        """What was found, after all rows.

        In "overlong", `rows` are the lines of all longer rows, `by_side` says what was too long, `cut` and `lost_eos`
        count completions by side, and `identical` counts the pairs that were left out.
        """
        overlong = {
            "action": self.settings["on_overlong"],
            "rows": self.overlong,
            "by_side": dict(self.by_side),
            "cut": dict(self.cuts),
            "lost_eos": dict(self.cuts) if self.eos_after is None else {},
            "identical": self.identical,
        }
        return {
            "rows": self.read,
            "kept": self.kept,
            "decided": self.decided,
            "overlong": overlong,
            "tokens": {name: _quantiles(lengths) for name, lengths in self.lengths.items()},
            "starts_with_bos": self.starts_with_bos,
            "first_token_differs": self.early / self.kept if self.kind == "pairs" else None,
        }

    def _renderable(self, row: dict) -> dict:
        if row.get("_turns") and self.settings["template"] != "chat":
            raise UserError(
                f"{row['_place']}: a conversation of several turns needs tokens.template: chat; a text has room for one"
            )
        return row

    def _encode(self, batch: list[dict]) -> Iterator[dict]:
        prompts = [row.get("_turns") or row["prompt"] for row in batch]
        columns = {"prompt_ids": encode_prompts(self.tokenizer, prompts, self.settings)}
        for side in COMPLETIONS[self.kind]:
            columns[f"{side}_ids"] = encode_completions(self.tokenizer, [row[side] for row in batch])
        for row, *ids in zip(batch, *columns.values(), strict=True):
            yield {"id": row["id"], "category": row["category"], **dict(zip(columns, ids, strict=True))}

    def _fits(self, encoded: dict, line: int, place: str) -> bool:
        """Whether the row is kept, its completions cut where that is asked for."""
        room = self.settings["max_length"] - len(encoded["prompt_ids"])
        too_long = [side for side in COMPLETIONS[self.kind] if len(encoded[f"{side}_ids"]) > room]
        too_long = too_long if room >= self.least else ["prompt"]
        if not too_long:
            return True
        self.by_side.update(too_long)
        self.overlong.append(line)
        self.shown += [place] if len(self.shown) < SHOWN else []
        if self.settings["on_overlong"] != "truncate" or too_long == ["prompt"]:
            return False
        for side in too_long:
            if encoded.get(CONTEXT):
                keep_whole_answers(encoded, room)
            if len(encoded[f"{side}_ids"]) > room:
                encoded[f"{side}_ids"] = cut(encoded[f"{side}_ids"], room, self.eos_after)
        if self.kind == "pairs" and encoded["chosen_ids"] == encoded["rejected_ids"]:
            self.identical += 1
            return False
        self.cuts.update(too_long)
        return True

    def _remember(self, encoded: dict) -> None:
        self.kept += 1
        for name, lengths in self.lengths.items():
            lengths.append(len(encoded[name]))
        self.starts_with_bos &= encoded["prompt_ids"][0] == self.tokenizer.bos_token_id
        if self.kind == "pairs":
            self.early += encoded["chosen_ids"][0] != encoded["rejected_ids"][0]

    def _require_rows(self) -> None:
        """UserError if overlong rows are to be refused, or no row is left."""
        limit, overlong = self.settings["max_length"], self.overlong
        if overlong and self.settings["on_overlong"] == "error":
            raise UserError(
                f"{len(overlong)} rows are longer than tokens.max_length = {limit} tokens ({'; '.join(self.shown)}"
                f"{', ...' if len(overlong) > SHOWN else ''}; {dict(self.by_side)}); raise tokens.max_length, shorten "
                "the rows, or (training rows) set tokens.on_overlong to drop or truncate"
            )
        if not self.kept:
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


class TokenRows(Sequence):
    """Token rows in a table: each is a dict with id, category and lists of int ids, made when it is asked for.

    Four bytes a token are in memory, not Python's thirty. Also what TRL's trainers take as a dataset.
    """

    def __init__(self, table: pyarrow.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, rows: Iterable[dict]) -> TokenRows:
        """Of dicts with the same keys, which need not be in memory together."""
        import pyarrow

        remaining, tables = iter(rows), []
        while batch := list(islice(remaining, GROUP)):
            tables.append(pyarrow.Table.from_pylist(batch, schema=token_schema(batch[0])))
        return cls(pyarrow.concat_tables(tables))

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, index: int) -> dict: ...
    @overload
    def __getitem__(self, index: slice) -> TokenRows: ...
    def __getitem__(self, index):
        """The row, or, without copying, some rows side by side."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("token rows are sliced with step 1")
            return TokenRows(self.table.slice(start, max(0, stop - start)))
        index = range(len(self))[index]
        return _dicts(self.table.slice(index, 1).to_batches()[0])[0]

    def __iter__(self) -> Iterator[dict]:
        for batch in self.table.to_batches(max_chunksize=BATCH):
            yield from _dicts(batch)

    def ids(self) -> list[str]:
        """The id of every row."""
        return self.table["id"].to_pylist()

    def longest_first(self) -> list[int]:
        """The positions of the rows, by the number of their ids: batches of like rows have little padding."""
        import pyarrow.compute

        names = [field.name for field in self.table.schema if field.name.endswith("_ids")]
        lengths = sum(pyarrow.compute.list_value_length(self.table[name]).to_numpy() for name in names)
        return (-lengths).argsort(kind="stable").tolist()

    def with_columns(self, **columns: Sequence[float]) -> TokenRows:
        """The same rows with further columns, a number for each row."""
        import pyarrow

        table = self.table
        for name, values in columns.items():
            table = table.append_column(name, pyarrow.array(values, pyarrow.float64()))
        return TokenRows(table)

    def map(self, *_, **__) -> TokenRows:
        """The rows themselves: TRL's trainers would tokenise a dataset by its `map`."""
        return self


def _dicts(batch: pyarrow.RecordBatch) -> list[dict]:
    """The rows of a batch. Arrow's own to_pylist takes a microsecond for each token."""
    columns = []
    for column in batch.columns:
        if hasattr(column, "offsets"):  # lists of ids
            offsets = column.offsets.to_pylist()
            ids = column.values[offsets[0] : offsets[-1]].to_numpy().tolist()
            columns.append([ids[start - offsets[0] : end - offsets[0]] for start, end in pairwise(offsets)])
        else:
            columns.append(column.to_pylist())
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def token_schema(row: dict) -> pyarrow.Schema:
    """Columns of the table of rows like this one: texts, int32 ids, float64 numbers."""
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64(), list: pa.list_(pa.int32())}
    return pa.schema([(name, types[type(value)]) for name, value in row.items()])


def write_tokens(path: str | Path, rows: Iterator[dict]) -> None:
    """Write token rows to the parquet file `path`, some thousand at a time; it stays as it was if `rows` raises."""
    import pyarrow
    import pyarrow.parquet

    with atomic_path(path) as temporary:
        batch = list(islice(rows, GROUP))
        if not batch:
            raise UserError(f"{path}: no rows to write")
        schema = token_schema(batch[0])
        with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as file:
            while batch:
                file.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                batch = list(islice(rows, GROUP))


def read_tokens(path: str | Path) -> TokenRows:
    """The rows of a token file (tokens/*.parquet)."""
    import pyarrow.parquet

    return TokenRows(pyarrow.parquet.read_table(path))
