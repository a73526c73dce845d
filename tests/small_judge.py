"""A small real HTTP server that speaks OpenAI's chat completions and judges: the longer of two answers is better.

    with SmallJudge() as judge: ...  # judge.url, judge.asked (texts, as they came), judge.keys

What else it does is up to `judge.behave(n, text)`, called for request number n (from 0): None for an ordinary answer,
or a dict with some of status, headers, body (bytes or JSON), delay (seconds), text, model, fingerprint.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = r"\[The Start of Assistant {0}'s Answer\]\n(.*?)\n\[The End of Assistant {0}'s Answer\]"


def better(text: str) -> str:
    """The longer answer, with a reason."""
    a, b = (len(re.search(ANSWER.format(name), text, re.DOTALL)[1]) for name in "AB")
    return f"A has {a} characters, B has {b}. [[{'A' if a > b else 'B' if b > a else 'C'}]]"


class SmallJudge:
    def __init__(self, model: str = "small-judge-1", behave: Callable[[int, str], dict | None] = lambda n, text: None):
        self.model, self.behave = model, behave
        self.asked: list[str] = []
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()

    def __enter__(self):
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                judge.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.lock:
            n = len(self.asked)
            self.asked.append(text)
            self.bodies.append(body)
            self.keys.add(handler.headers["Authorization"])
        odd = (self.behave(n, text) or {}) if handler.path == "/v1/chat/completions" else {"status": 404}
        time.sleep(odd.get("delay", 0))
        written = odd["text"] if "text" in odd else None if "body" in odd else better(text)
        completion = {
            "id": f"chatcmpl-{n}",
            "object": "chat.completion",
            "created": 1,
            "model": odd.get("model", self.model),
            "system_fingerprint": odd.get("fingerprint", "fp_1"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": written},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": len(text.split()),
                "completion_tokens": 7,
                "total_tokens": len(text.split()) + 7,
            },
        }
        content = odd.get("body", completion if odd.get("status", 200) == 200 else {"error": {"message": "no"}})
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            handler.send_response(odd.get("status", 200))
            for name, value in {"Content-Type": "application/json", **odd.get("headers", {})}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked waits no more
