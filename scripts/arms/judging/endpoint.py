"""A judge behind an endpoint that speaks OpenAI's chat completions: asked in parallel, within its limits.

The client (openai) sends a request again after what may pass: no connection, a timeout, 408, 409, 429, 5xx; it waits
longer each time, or as long as Retry-After says. What stays is one message.
"""

from __future__ import annotations

import os
import threading
import time

import httpx
import openai
from openai.types.chat import ChatCompletion

from arms.job.files import UserError
from arms.judging.kept import Ledger

REFUSED = (400, 413, 422)  # of this request: too long for the judge, or against the rules of its provider


class RefusedRequest(Exception):
    """The endpoint does not take one request, and says why."""


class Pace:
    """Lets so many requests a minute pass; None: all."""

    def __init__(self, per_minute: float | None) -> None:
        self.seconds = 60 / per_minute if per_minute else 0.0
        self.lock, self.next = threading.Lock(), 0.0

    def wait(self, request: httpx.Request) -> None:
        """Called before each request, those included that are sent again."""
        with self.lock:
            start = max(self.next, time.monotonic())
            self.next = start + self.seconds
        time.sleep(max(0.0, start - time.monotonic()))


class Endpoint:
    """Where a judge is asked.

    name: of the judge, for messages. reach: endpoint, key (the name of the variable that holds it), timeout, retries,
    requests_per_minute, most_requests, most_tokens (study/judges.py). UserError where the variable is not set.
    """

    def __init__(self, name: str, reach: dict, ledger: Ledger) -> None:
        self.where, self.reach, self.ledger = f"evaluation.judges.{name}", reach, ledger
        self.key = os.environ.get(reach["key"], "") if reach["key"] else "none"
        if not self.key:
            raise UserError(
                f"{self.where}: the environment variable {reach['key']}, which is to hold its key, is not set"
            )
        pace = Pace(reach["requests_per_minute"])
        limits = httpx.Limits(max_connections=reach["parallel"], max_keepalive_connections=reach["parallel"])
        self.client = openai.OpenAI(
            base_url=reach["endpoint"],
            api_key=self.key,
            timeout=reach["timeout"],
            max_retries=reach["retries"],
            http_client=httpx.Client(
                event_hooks={"request": [pace.wait]}, limits=limits, timeout=reach["timeout"], follow_redirects=False
            ),
        )
        self.under_way, self.lock = 0, threading.Lock()

    def ask(self, judge: dict, text: str) -> dict:
        """A judge's answer to a text as one turn of a user (fields: kept.FIELDS).

        RefusedRequest if the endpoint takes others but not this one; UserError for all that waiting did not mend, and
        where the budget is spent.
        """
        self._reserve()
        try:
            reply = self.client.chat.completions.create(
                model=judge["model"], messages=[{"role": "user", "content": text}], extra_body=judge["parameters"]
            )
        except openai.APIStatusError as error:
            if error.status_code in REFUSED:
                raise RefusedRequest(self._without_key(error)) from None
            raise UserError(f"{self.where}: {self._told(error)}") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            late = (
                f"no answer within {self.reach['timeout']:g} s" if isinstance(error, openai.APITimeoutError) else cause
            )
            raise UserError(
                f"{self.where}: {self.reach['endpoint']} cannot be reached ({late}), {self._tries()}; is the server "
                "running there? A slow one needs a longer `timeout`, or fewer in `parallel`"
            ) from None
        except (openai.OpenAIError, ValueError) as error:  # no JSON where JSON was promised
            raise self._no_completion(error) from None
        finally:
            with self.lock:
                self.under_way -= 1
        return self._read(reply)

    def _reserve(self) -> None:
        """Count one more request under way; UserError if that would exceed the budget."""
        with self.lock:
            for spent, limit, what in (
                (self.ledger.requests + self.under_way, self.reach["most_requests"], "requests"),
                (self.ledger.tokens, self.reach["most_tokens"], "tokens"),
            ):
                if limit is not None and spent >= limit:
                    raise UserError(
                        f"{self.where}: its budget of {limit} {what} is spent. What was answered is kept and will not "
                        f"be asked again; to go on, raise most_{what} and run the same command"
                    )
            self.under_way += 1

    def _read(self, reply: object) -> dict:
        """What an answer says, on record as spent."""
        choices = getattr(reply, "choices", None)
        if not isinstance(reply, ChatCompletion) or not choices or getattr(choices[0], "message", None) is None:
            raise self._no_completion(reply)
        usage = reply.usage
        prompt, written = (getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
        self.ledger.add(prompt + written)
        return {
            "text": choices[0].message.content or "",
            "model": reply.model or None,
            "fingerprint": reply.system_fingerprint,
            "finish_reason": choices[0].finish_reason,
            "prompt_tokens": prompt,
            "completion_tokens": written,
        }

    def _no_completion(self, reply: object) -> UserError:
        found = " ".join(self._without_key(getattr(reply, "error", None) or reply).split())[:200]
        return UserError(
            f"{self.where}: {self.reach['endpoint']} answers, but with no chat completion: {found!r}; `endpoint` has "
            "to be the base URL of an OpenAI-compatible server, which often ends in /v1"
        )

    def _told(self, error: openai.APIStatusError) -> str:
        """An error of the server in the user's words."""
        said, status = self._without_key(error), error.status_code
        if status in (401, 403):
            key = (
                f"the key in {self.reach['key']}" if self.reach["key"] else "requests without a key (`key` names none)"
            )
            return f"{self.reach['endpoint']} does not accept {key} ({said})"
        if status == 404:
            return (
                f"{self.reach['endpoint']} knows no such model or path ({said}); correct `model`, or `endpoint`, which "
                "often ends in /v1"
            )
        if status == 429:
            return (
                f"{self.reach['endpoint']} takes no more requests, {self._tries()} ({said}); lower requests_per_minute "
                "or parallel, or see whether your account is paid, and run again"
            )
        return f"{self.reach['endpoint']} fails, {self._tries()} ({said}); run again when it works"

    def _tries(self) -> str:
        tries = 1 + self.reach["retries"]
        return f"after {tries} tries" if tries > 1 else "at the first try"

    def _without_key(self, told: object) -> str:
        """What a server or the client says, in which the key may be."""
        return str(told).replace(self.key, "***") if self.reach["key"] else str(told)


def same_model(judge: dict, reply: dict, where: str, met: str) -> None:
    """UserError if an answer comes from another model than the one that the judge said to be when it was met.

    An error, not a warning: verdicts of two models are no one judge's. Another system_fingerprint, which says that the
    provider's machines changed, is only told: it changes without notice, and nobody could go on.
    """
    if reply["model"] != judge["served"]:
        raise UserError(
            f"{where}: {judge['model']!r} was served as {judge['served']!r} when this study met it, and now is as "
            f"{reply['model']!r}. Verdicts of two models are not mixed. To go on with the first, name it exactly in "
            f"`model`; to judge all anew by the second, delete {met}. What was answered is kept"
        )
