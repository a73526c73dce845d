"""What a person sees of a run that fails: the one message that matters, once, last and alone.

Snakemake says a failed job three times: the exception with the shell command, the job with the command again and its
whole log, and that there was an error. `Terminal` stands before the handler that writes to the terminal and knows
Snakemake's records by the events that its logger plugins get. The file in .snakemake/log keeps every record as it is,
and so does the terminal with --verbose.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from study.journal import INTERRUPTED

MARK = "error: "  # how a program's message to the user begins (arms/job/files.py)
TAIL = 65536  # bytes of a log that are looked at
LOCKED = "Error: Directory cannot be locked. Another Snakemake instance is running."  # in a dry run
ABOUT_FAILURES = (
    "Exiting because a job execution failed",
    "Shutting down, this might take some time",
    "Complete log(s): ",
    "Elapsed time: ",
)
GOES_ON = "Interrupted; the same command goes on from what is saved."
NOT_COMPLETE = "At least one job did not complete successfully."
OURS = "StudyError"  # the exception of a mistake that the study itself found: its text is the message


class Terminal(logging.Handler):
    """Passes records to the handler that it stands before, and says at the end what failed.

    ours: whether the rule of this name is the study's. shows: whether the terminal has already seen all that this rule
    said, since showing something is all that it is for.
    """

    def __init__(
        self,
        handler: logging.StreamHandler,
        ours: Callable[[str], bool],
        shows: Callable[[str], bool],
        locked: Callable[[], str],
    ) -> None:
        super().__init__()
        self.name, self.inner, self.ours, self.shows, self.locked = handler.name, handler, ours, shows, locked
        self.failed: dict[int, str] = {}  # job -> what is said at the end, of those that have not been repeated
        self.interrupted = False  # Ctrl-C: that jobs fail now is no news
        self.line: Any = None  # study/line.py: how far the run is
        self.bare = False  # show what jobs print, and nothing of the workflow around them

    def emit(self, record: Any) -> None:
        """Pass the record on, and let the line of progress stay below."""
        if self.line is None:
            return self.pass_on(record)
        self.line.note(record)
        with self.line.lock:
            self.line.clear()
            self.pass_on(record)
            self.line.draw()

    def pass_on(self, record: Any) -> None:
        """Pass the record on, as it is or in other words, or not at all."""
        event, text = getattr(record, "event", None), str(record.msg)
        if event == LogEvent.JOB_ERROR and self.ours(record.rule_name):
            self.fail(record)
        elif event == LogEvent.ERROR and record.exception == OURS:
            self.say(record, MARK + message(text))
        elif event == LogEvent.ERROR and record.exception == "LockException":
            self.say(record, MARK + self.locked())
        elif event is None and text == LOCKED:
            self.say(record, "A run is under way in this folder, or a killed one left its locks: `snakemake status`.")
        elif event == LogEvent.ERROR and NOT_COMPLETE in text and (self.failed or self.interrupted):
            said = sorted({words for words in self.failed.values() if words})
            for line in said or [GOES_ON] * self.interrupted:
                self.say(record, line)
        elif not self.is_about_failures(event, record, text) and not (self.bare and record.levelno < logging.WARNING):
            self.interrupted = self.interrupted or text.startswith(INTERRUPTED)
            if event == LogEvent.JOB_FINISHED:
                self.failed.pop(record.job_id, None)  # repeated, with success
            self.inner.handle(record)

    def is_about_failures(self, event: LogEvent | None, record: Any, text: str) -> bool:
        """Whether a record says around a failed job of ours what is said better elsewhere."""
        if event == LogEvent.ERROR:
            return record.exception == "RuleException" and text.startswith("RuleException:\nCalledProcessError in file")
        return bool(self.failed) and event is None and text.startswith(ABOUT_FAILURES)

    def fail(self, record: Any) -> None:
        """Keep what a job that failed said for the end, and tell at once that it did."""
        away = "external_jobid" in record.aux
        words, log, own = last_words(record.log, str(record.rule_msg or "") if away else "")
        if not own and (self.interrupted or (self.shows(record.rule_name) and not away)):
            self.failed[record.jobid] = ""
            return
        self.failed[record.jobid] = f"{words} (log: {log})"
        self.say(record, f"Failed: {record.rule_name} (log: {log}). Why is said at the end, when no job runs any more.")

    def say(self, record: logging.LogRecord, text: str) -> None:
        """Write a text in the place of a record; no --quiet but `all` drops it."""
        self.inner.handle(
            logging.makeLogRecord({"levelno": record.levelno, "levelname": record.levelname, "msg": text})
        )

    def flush(self) -> None:
        """Flush the handler behind."""
        self.inner.flush()

    def end_line(self) -> None:
        """The run is over: what is said from now on is the last."""
        if self.line is not None:
            self.line.close()
            self.line = None

    def close(self) -> None:
        """Close both."""
        self.end_line()
        self.inner.close()
        super().close()


def stand_before(logger: logging.Logger, **asked: Callable) -> Terminal | None:
    """Put a Terminal before the handler of `logger` that writes to the terminal; None if there is none."""
    for place, one in enumerate(logger.handlers):
        if isinstance(one, Terminal):
            return one
        if isinstance(one, logging.StreamHandler) and not isinstance(one, logging.FileHandler):
            logger.handlers[place] = terminal = Terminal(one, **asked)
            return terminal
    return None


def message(text: str) -> str:
    """The message in what Snakemake makes of an exception: without the place in the Snakefile, before and behind it."""
    lines = text.splitlines()
    if lines and re.match(rf"{OURS}( in .*)?:$", lines[0]):
        lines = lines[1:]
    while lines and re.match(r' +File ".*", line \d+, in ', lines[-1]):
        lines.pop()
    return "\n".join(lines)


def last_words(logs: list[str], around: str) -> tuple[str, str, bool]:
    """(what a failed job said last, the path of the log that says it, whether it is a message of the program's own).

    logs: of its program, then of the scheduler. around: what the scheduler says, for a job that left no message.
    """
    about = around.partition("For further error details")[0].strip()
    for log in logs:
        lines = [line for line in tail(log) if line.strip()]
        starts = [number for number, line in enumerate(lines) if line.startswith(MARK)]
        if starts:
            return " ".join(line.strip() for line in lines[starts[-1] :]), log, True
        if lines:
            last = lines[-1].strip()
            if any(line.startswith("Traceback (most recent") for line in lines):
                interrupted = "interrupted; the same command goes on from what is saved"
                said = interrupted if last == "KeyboardInterrupt" else f"the program broke: {last}"
            else:
                said = last if "stopped by SIGTERM" in last else f"ended without a message: {last}"
            return f"{MARK}{f'{about} ' * bool(about)}{said}", log, False
    return f"{MARK}{about or 'ended before it said anything'}", ", ".join(logs) or "none", False


def tail(log: str | Path) -> list[str]:
    """The last lines of a log, of which control characters are blanked; [] if it cannot be read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return ["".join(sign if sign.isprintable() else " " for sign in line) for line in lines]
