"""Programs `meet_judge` and `judge` against a small real HTTP server: what is asked, kept, refused and written."""

import contextlib
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("openai", reason="runs in the grade environment")

import pyarrow as pa
import pyarrow.parquet as pq

from arms.job.files import UserError, sha256_file
from arms.judging.comparisons import Comparison
from arms.judging.kept import Kept, Ledger, key_of
from arms.judging.prompt import BUILT_IN, filled_in, read_prompt, verdict

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))
from small_judge import SmallJudge, better

SECRET = "sk-never-written-anywhere"
PROMPTS = 6


class Bench:
    """A study's files as far as a judge needs them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.reach = {
            "endpoint": url, "key": None, "requests_per_minute": None, "parallel": 2, "timeout": 10, "retries": 0,
            "most_requests": None, "most_tokens": None, "kept": str(folder / "kept"), "ledger": "study.small",
        }  # fmt: skip
        self.settings = {"model": "small", "parameters": {"temperature": 0, "max_tokens": 99}}
        prompts = [{"id": f"p{i}", "prompt": f"Question {i}?", "category": "one"} for i in range(PROMPTS)]
        pq.write_table(pa.Table.from_pylist(prompts), folder / "prompts.parquet")
        self.answers("sft_dpo-seed1", [f"answer {i}" + "!" * i for i in range(PROMPTS)])
        self.answers("sft-seed1", [f"answer {i} and more" for i in range(PROMPTS)])

    def answers(self, run, texts):
        rows = [
            {"prompt_id": f"p{i}", "sample_idx": 0, "text": text, "n_tokens": 3, "status": "ok"}
            for i, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.folder / f"{run}.parquet")

    def command(self, program, wildcards, files, settings):
        job = {"rule": program, "wildcards": wildcards, "settings": settings, "code": "x", "lock": None}
        flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
        command = [sys.executable, str(ROOT / "scripts" / f"{program}.py"), "--job", json.dumps(job)]
        return [*command, "--reach", json.dumps(self.reach), *flags]

    def run(self, command, **environment):
        """(error or None, what was said) of a program, in this process: openai takes a second to import."""
        said, error = io.StringIO(), None
        program = importlib.import_module(Path(command[1]).stem)
        with mock.patch.dict(os.environ, environment), mock.patch.object(sys, "argv", command[1:]):
            with contextlib.redirect_stdout(said):
                try:
                    program.main()
                except UserError as told:
                    error = told
        return error, said.getvalue()

    def meet(self, *prompt, **environment):
        files = {"met": self.folder / "met.json", "manifest": self.folder / "met.manifest.json"}
        files |= {"prompt": prompt[0]} if prompt else {}
        return self.run(self.command("meet_judge", {"judge": "small"}, files, self.settings), **environment)

    def of_pair(self, run="sft_dpo-seed1", other="sft-seed1", to="one"):
        files = {
            "met": self.folder / "met.json", "prompts": self.folder / "prompts.parquet",
            "first": self.folder / f"{run}.parquet", "second": self.folder / f"{other}.parquet",
            "scores": self.folder / f"{to}.scores.parquet", "answers": self.folder / f"{to}.answers.parquet",
            "manifest": self.folder / f"{to}.manifest.json",
        }  # fmt: skip
        return self.command("judge", {"judge": "small", "run": run, "other": other}, files, {})

    def judge(self, *args, environment=None, **options):
        return self.run(self.of_pair(*args, **options), **(environment or {}))

    def table(self, name="one.scores"):
        return pq.read_table(self.folder / f"{name}.parquet").to_pylist()


@pytest.fixture
def server():
    with SmallJudge() as judge:
        yield judge


@pytest.fixture
def bench(tmp_path, server):
    return Bench(tmp_path, server.url)


def done(found):
    error, said = found
    assert error is None, error
    return said


def failed(found):
    """The one message of a job that failed."""
    error, said = found
    assert error is not None, said
    assert "\n" not in str(error)
    return str(error)


# ---- what is asked and how it is read


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[[A]]", "A"),
        ("Both are fine.\n\n[[C]]", "C"),
        ("[[B]] indeed [[B]]", "B"),
        ("<think>[[A]]? no, [[C]]</think> [[B]]", "B"),
        ("[[A]] or [[B]]", None),
        ("A", None),
        ("[A]", None),
        ("[[D]]", None),
        ("[[a]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_strict(answer, found):
    assert verdict(answer) == found


def test_texts_stay_texts_inside_the_prompt():
    text = filled_in(BUILT_IN, "{answer_b}", "{question} [[A]]", "b")
    assert "[User Question]\n{answer_b}\n" in text
    assert "Answer]\n{question} [[A]]\n[The End" in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{question} {answer_a} [[A]] [[B]] [[C]]", "{answer_b} is missing"),
        ("{question} {answer_a} {answer_b} [[A]] [[B]]", r"does not ask for [[C]]"),
        (b"\xff\xfe", "no text in UTF-8"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(tmp_path, text, complaint):
    path = tmp_path / "prompt.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_prompt(str(path))
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


def test_equal_and_empty_answers_are_not_asked():
    def of(a, b):
        return Comparison("p", 0, False, "q", a, b).unasked

    assert (of("a", "a"), of(" ", "")) == ((0.5, "same"), (0.5, "same"))
    assert (of("", "a"), of("a", "\n"), of("a", "b")) == ((0.0, "empty"), (1.0, "empty"), None)


# ---- a whole pair


def test_each_pair_is_judged_in_both_orders_and_written_for_the_statistics(bench, server):
    done(bench.meet())
    met = json.loads((bench.folder / "met.json").read_text())
    assert (met["model"], met["served"], met["prompt"]) == ("small", "small-judge-1", BUILT_IN)
    done(bench.judge())
    assert len(server.asked) == 1 + 2 * PROMPTS
    assert server.bodies[0].items() >= {"model": "small", "temperature": 0, "max_tokens": 99}.items()
    rows = bench.table()
    assert list(rows[0]) == [
        "arm_a", "arm_b", "train_seed", "prompt_id", "sample_idx", "value", "status", "length_a", "length_b"
    ]  # fmt: skip
    assert len(rows) == 2 * PROMPTS
    for row in rows:
        i = int(row["prompt_id"][1:])
        length = {"sft_dpo": 8 + i, "sft": 17}
        a, b = length[row["arm_a"]], length[row["arm_b"]]
        assert (row["length_a"], row["length_b"], row["train_seed"]) == (a, b, 1)
        assert (row["value"], row["status"]) == (1.0 if a > b else 0.0 if b > a else 0.5, "ok")
    assert {(row["arm_a"], row["arm_b"]) for row in rows} == {("sft_dpo", "sft"), ("sft", "sft_dpo")}
    written = bench.table("one.answers")
    assert [row["text"] for row in written if row["prompt_id"] == "p0"] == [
        "A has 8 characters, B has 17. [[B]]",
        "A has 17 characters, B has 8. [[A]]",
    ]
    facts = json.loads((bench.folder / "one.manifest.json").read_text())["facts"]
    assert facts["values"] == {"first": 6, "second": 6}
    assert facts["prompt_sha256"] == met["prompt_sha256"]


def test_nothing_is_asked_twice(bench, server):
    done(bench.meet())
    done(bench.judge())
    asked = len(server.asked)
    first = sha256_file(bench.folder / "one.scores.parquet"), sha256_file(bench.folder / "one.answers.parquet")
    done(bench.judge(to="again"))
    assert (
        sha256_file(bench.folder / "again.scores.parquet"),
        sha256_file(bench.folder / "again.answers.parquet"),
    ) == first
    # another seed with the same answers, but for one
    texts = [row["text"] for row in bench.table("sft_dpo-seed1")]
    bench.answers("sft_dpo-seed2", [*texts[:-1], "something else"])
    bench.answers("sft-seed2", [row["text"] for row in bench.table("sft-seed1")])
    assert len(server.asked) == asked
    done(bench.judge("sft_dpo-seed2", "sft-seed2", to="two"))
    assert len(server.asked) == asked + 2
    assert {row["train_seed"] for row in bench.table("two.scores")} == {2}


def test_what_is_kept_needs_no_server_and_no_key(bench, server):
    done(bench.meet())
    done(bench.judge())
    server.__exit__()
    bench.reach |= {"key": "SFT_VS_DPO_NO_SUCH_KEY", "endpoint": "http://127.0.0.1:1/v1"}
    done(bench.judge(to="again"))


def test_empty_answers_and_equal_ones_cost_nothing(bench, server):
    bench.answers("sft-seed1", ["", "answer 1!", *["x"] * (PROMPTS - 2)])
    done(bench.meet())
    done(bench.judge())
    assert len(server.asked) == 1 + 2 * (PROMPTS - 2)
    rows = bench.table()
    assert [row["value"] for row in rows[:4]] == [1.0, 0.0, 0.5, 0.5]
    assert [row["unasked"] for row in bench.table("one.answers")[:4]] == ["empty", "empty", "same", "same"]


def test_a_prompt_of_the_users_is_used_and_kept_apart(bench, server, tmp_path):
    done(bench.meet())
    done(bench.judge())
    asked, path = len(server.asked), tmp_path / "prompt.txt"
    path.write_text("Which is longer, [[A]], [[B]] or [[C]]?\n" + BUILT_IN)
    done(bench.meet(path))
    done(bench.judge(to="other"))
    assert len(server.asked) == 2 * asked
    assert server.asked[-1].startswith("Which is longer")


def test_changing_where_and_how_fast_asks_nothing(bench, server):
    done(bench.meet())
    done(bench.judge())
    asked = len(server.asked)
    bench.reach |= {"parallel": 7, "timeout": 3, "retries": 2, "requests_per_minute": 1}
    done(bench.judge(to="again"))
    assert len(server.asked) == asked
    bench.settings["parameters"]["temperature"] = 1
    bench.reach["requests_per_minute"] = None
    done(bench.meet())
    done(bench.judge(to="warm"))
    assert len(server.asked) == 2 * asked


def test_a_reward_model_prefers_the_higher_reward(bench):
    bench.answers("sft-seed1", ["answer 0", "", *["x"] * (PROMPTS - 2)])
    (bench.folder / "met.json").write_text(json.dumps({"served": "abc"}))
    for run, rewards in (("sft_dpo-seed1", [1, 1, 0.5, 2, -1, 0]), ("sft-seed1", [1, 9, 0.5, 1, 0, 0])):
        rows = [{"prompt_id": f"p{i}", "sample_idx": 0, "reward": float(reward)} for i, reward in enumerate(rewards)]
        pq.write_table(pa.Table.from_pylist(rows), bench.folder / f"{run}.rewards.parquet")
    command = bench.of_pair()
    command[1] = command[1].replace("judge.py", "prefer.py")
    place = command.index("--reach")
    rewards = [f"--{name}-rewards={bench.folder}/{run}.rewards.parquet" for name, run in
               (("first", "sft_dpo-seed1"), ("second", "sft-seed1"))]  # fmt: skip
    command[place : place + 2] = rewards
    command[command.index("--job") + 1] = command[command.index("--job") + 1].replace(
        '"judge": "small"', '"reward": "rm"'
    )
    done(bench.run(command))
    rows = bench.table()
    assert [row["value"] for row in rows if row["arm_a"] == "sft_dpo"] == [0.5, 1, 0.5, 1, 0, 0.5]
    assert [row["value"] for row in rows if row["arm_a"] == "sft"] == [0.5, 0, 0.5, 0, 1, 0.5]
    assert [row["unasked"] for row in bench.table("one.answers")[:4]] == ["same", "same", "empty", "empty"]


# ---- killed, and side by side


def test_a_job_that_is_killed_asks_nothing_twice(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"delay": 0.3}
    for most in (4, 7):
        job = subprocess.Popen(bench.of_pair(), stdout=subprocess.DEVNULL)
        while len(server.asked) < 1 + most:
            time.sleep(0.02)
        time.sleep(0.45)  # a few more, and some under way
        job.send_signal(signal.SIGKILL)
        job.wait()
        time.sleep(0.5)
    kept = len(list((bench.folder / "kept").glob("??/*.json")))
    before = len(server.asked)
    assert 4 <= kept < 2 * PROMPTS
    done(bench.judge())
    assert len(server.asked) - before == 2 * PROMPTS - kept  # all but those that were answered in full
    other = bench.folder / "undisturbed"
    other.mkdir()
    quiet = Bench(other, server.url)
    done(quiet.meet())
    done(quiet.judge())
    assert sha256_file(other / "one.scores.parquet") == sha256_file(bench.folder / "one.scores.parquet")
    assert sha256_file(other / "one.answers.parquet") == sha256_file(bench.folder / "one.answers.parquet")


def test_two_jobs_at_once_ask_each_question_once(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"delay": 0.1}
    jobs = [subprocess.Popen(bench.of_pair(to=to), stdout=subprocess.PIPE, text=True) for to in ("one", "two")]
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert len(server.asked) == len(set(server.asked)) == 1 + 2 * PROMPTS
    assert any("waiting for another job that asks small" in text for text in said)
    assert sha256_file(bench.folder / "one.answers.parquet") == sha256_file(bench.folder / "two.answers.parquet")


def test_files_that_a_crash_left_behind_do_no_harm(tmp_path):
    kept, key = Kept(tmp_path), "ab" + "0" * 62
    reply = dict.fromkeys(["text", "model", "fingerprint", "finish_reason", "prompt_tokens", "completion_tokens"])
    assert kept.get(key) is None
    kept.put(key, reply)
    assert kept.get(key) == reply
    for torn in ("", "{", '{"text": "[[A]]"}', "[]", "\x00" * 20):
        kept.path(key).write_text(torn)
        assert kept.get(key) is None
    ledger = Ledger(tmp_path, "s.j")
    ledger.add(5)
    ledger.add(6)
    with ledger.path.open("a") as file:
        file.write('\n{"tok')
    again = Ledger(tmp_path, "s.j")
    assert (again.requests, again.tokens) == (2, 11)
    again.add(1)
    assert (Ledger(tmp_path, "s.j").requests, Ledger(tmp_path, "s.j").tokens) == (3, 12)


def test_the_key_of_an_answer_is_its_whole_content():
    judge = {"model": "m", "served": "s", "prompt": "p", "parameters": {"temperature": 0}, "more": 1}
    key = key_of(judge, "q", "a", "b")
    others = [
        *({**judge, name: "other"} for name in ("model", "served", "prompt", "parameters")),
    ]
    keys = {key, *(key_of(other, "q", "a", "b") for other in others), key_of(judge, "q", "b", "a")}
    assert len(keys | {key_of(judge, "", "qa", "b"), key_of(judge, "q", "ab", "")}) == 8
    assert key_of({**judge, "more": 2}, "q", "a", "b") == key


# ---- limits


def test_a_budget_of_requests_stops_with_one_message_and_keeps_what_was_paid(bench, server):
    bench.reach["most_requests"] = 6
    done(bench.meet())
    message = failed(bench.judge())
    assert "evaluation.judges.small: its budget of 6 requests is spent" in message
    assert "(5 of 12 answers are kept)" in message
    assert len(server.asked) == 6
    assert "spent" in failed(bench.judge())
    assert len(server.asked) == 6
    bench.reach["most_requests"] = 13
    done(bench.judge())
    assert len(server.asked) == 13


def test_a_budget_of_tokens_stops_too(bench, server):
    bench.reach |= {"most_tokens": 400, "parallel": 1}
    done(bench.meet())
    assert "its budget of 400 tokens is spent" in failed(bench.judge())
    spent = [len(text.split()) + 7 for text in server.asked]
    assert sum(spent[:-1]) < 400 <= sum(spent)


def test_requests_a_minute_are_kept_to(bench, server):
    done(bench.meet())
    bench.reach |= {"requests_per_minute": 300, "parallel": 8}
    started = time.monotonic()
    done(bench.judge())
    assert time.monotonic() - started > (2 * PROMPTS - 1) * 60 / 300


def test_requests_go_out_in_parallel(bench, server):
    done(bench.meet())
    most, lock = [0, 0], server.lock

    def behave(n, text):
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.3)
        with lock:
            most[0] -= 1

    server.behave = behave
    bench.reach["parallel"] = 3
    done(bench.judge())
    assert most[1] == 3


# ---- bad endpoints: each one message


def meet_fails(bench, **environment):
    message = failed(bench.meet(**environment))
    assert message.startswith("evaluation.judges.small: ")
    assert not (bench.folder / "met.json").exists()
    return message


def test_an_endpoint_that_is_down_is_told(bench):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bench.reach |= {"endpoint": f"http://127.0.0.1:{port}/v1", "retries": 1}
    message = meet_fails(bench)
    assert f"http://127.0.0.1:{port}/v1 cannot be reached" in message
    assert "after 2 tries; is the server running there?" in message


def test_a_slow_endpoint_is_told(bench, server):
    server.behave = lambda n, text: {"delay": 3}
    bench.reach["timeout"] = 0.5
    assert "cannot be reached (no answer within 0.5 s), at the first try" in meet_fails(bench)


def test_too_many_requests_wait_as_long_as_the_server_says(bench, server):
    times = []

    def behave(n, text):
        times.append(time.monotonic())
        return {"status": 429, "headers": {"Retry-After": "2"}} if n == 0 else None

    server.behave = behave
    bench.reach["retries"] = 1
    done(bench.meet())
    assert len(times) == 2
    assert 1.9 < times[1] - times[0] < 4


def test_too_many_requests_for_ever_are_told(bench, server):
    server.behave = lambda n, text: {"status": 429, "headers": {"Retry-After": "0"}}
    bench.reach["retries"] = 2
    message = meet_fails(bench)
    assert "takes no more requests, after 3 tries" in message
    assert "lower requests_per_minute" in message
    assert len(server.asked) == 3


def test_errors_of_a_server_are_tried_again_then_told(bench, server):
    server.behave = lambda n, text: {"status": 500} if n < 2 else None
    bench.reach["retries"] = 1
    assert "fails, after 2 tries" in meet_fails(bench)
    bench.reach["retries"] = 2
    server.asked.clear()
    done(bench.meet())


def test_a_key_that_is_not_accepted_is_told_and_never_written(bench, server):
    server.behave = lambda n, text: {"status": 401, "body": {"error": {"message": f"Incorrect API key: {SECRET}"}}}
    bench.reach["key"] = "A_JUDGES_KEY"
    message = meet_fails(bench, A_JUDGES_KEY=SECRET)
    assert "does not accept the key in A_JUDGES_KEY" in message
    assert SECRET not in message
    assert "***" in message
    assert server.keys == {f"Bearer {SECRET}"}


def test_the_key_goes_to_the_server_and_nowhere_else(bench, server):
    bench.reach["key"] = "A_JUDGES_KEY"
    said = done(bench.meet(A_JUDGES_KEY=SECRET)) + done(bench.judge(environment={"A_JUDGES_KEY": SECRET}))
    assert server.keys == {f"Bearer {SECRET}"}
    assert SECRET not in said
    for path in bench.folder.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path


def test_a_missing_key_is_told(bench, server):
    bench.reach["key"] = "A_JUDGES_KEY"
    message = meet_fails(bench)
    assert "the environment variable A_JUDGES_KEY, which is to hold its key, is not set" in message
    assert server.asked == []


@pytest.mark.parametrize(
    ("odd", "complaint"),
    [
        ({"body": b"<html>hello</html>", "headers": {"Content-Type": "text/html"}}, "with no chat completion"),
        ({"body": {"hello": 1}}, "with no chat completion"),
        ({"body": {"error": {"message": "model overloaded"}}}, "model overloaded"),
        ({"body": b"{not json"}, "with no chat completion"),
        ({"body": {"object": "chat.completion", "choices": [], "model": "m"}}, "with no chat completion"),
        ({"status": 404}, "knows no such model or path"),
        ({"status": 400, "body": {"error": {"message": "temperature must be 1"}}}, "temperature must be 1"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, "fails"),
    ],
)
def test_what_is_no_judge_is_told(bench, server, odd, complaint):
    server.behave = lambda n, text: odd
    assert complaint in meet_fails(bench)


def test_a_judge_without_a_verdict_is_told_before_training(bench, server):
    server.behave = lambda n, text: {"text": "I like trains."}
    assert "warning: small gave no verdict, but 'I like trains.'" in done(bench.meet())


def test_nonsense_has_a_status_and_is_not_asked_again(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"text": "Dunno." if "Question 3" in text else better(text)}
    done(bench.judge())
    asked = len(server.asked)
    rows = {row["prompt_id"]: row for row in bench.table()}
    assert (rows["p3"]["status"], rows["p3"]["value"]) == ("judge_fail", None)
    assert {row["status"] for name, row in rows.items() if name != "p3"} == {"ok"}
    assert [row["text"] for row in bench.table("one.answers") if row["prompt_id"] == "p3"] == ["Dunno."] * 2
    facts = json.loads((bench.folder / "one.manifest.json").read_text())["facts"]
    assert facts["statuses"] == {"judge_fail": 2, "ok": 2 * PROMPTS - 2}
    done(bench.judge(to="again"))
    assert len(server.asked) == asked


def test_an_answer_without_text_is_nonsense(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"text": None}
    done(bench.judge())
    assert {row["status"] for row in bench.table()} == {"judge_fail"}


def test_a_question_that_is_refused_is_an_error_of_its_own(bench, server):
    done(bench.meet())
    too_long = {"status": 400, "body": {"error": {"message": "longer than the context"}}}
    server.behave = lambda n, text: too_long if "Question 3" in text else None
    done(bench.judge())
    status = {row["prompt_id"]: row["status"] for row in bench.table()}
    assert status == {f"p{i}": "error" if i == 3 else "ok" for i in range(PROMPTS)}
    server.behave = lambda n, text: None
    done(bench.judge(to="again"))
    assert {row["status"] for row in bench.table("again.scores")} == {"ok"}, "a refusal is not kept"


def test_an_endpoint_that_takes_no_question_is_an_error(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"status": 400, "body": {"error": {"message": "longer than the context"}}}
    assert "takes none of the questions" in failed(bench.judge())


def test_a_model_that_changes_in_the_middle_stops_the_job(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"model": "small-judge-2"} if n > 4 else None
    message = failed(bench.judge())
    assert "'small' was served as 'small-judge-1' when this study met it, and now is as 'small-judge-2'" in message
    assert f"delete {bench.folder / 'met.json'}" in message
    first = list(server.asked[1:5])
    # to go on with the second: meet it anew. What it said already is kept; what the first said counts no more
    server.behave = lambda n, text: {"model": "small-judge-2"}
    done(bench.meet())
    before = len(server.asked)
    done(bench.judge())
    assert set(first) <= set(server.asked[before:])
    assert len(server.asked) - before < 2 * PROMPTS
    assert {row["model"] for row in bench.table("one.answers")} == {"small-judge-2"}


def test_another_fingerprint_is_told(bench, server):
    done(bench.meet())
    server.behave = lambda n, text: {"fingerprint": f"fp_{n > 4}"}
    assert "warning: system_fingerprint changed: fp_False, fp_True" in done(bench.judge())


def test_answers_to_other_prompts_are_refused(bench):
    done(bench.meet())
    bench.answers("sft-seed1", ["x"] * (PROMPTS - 1))
    message = failed(bench.judge())
    assert str(bench.folder / "sft-seed1.parquet") in message
    assert "'p5'" in message
