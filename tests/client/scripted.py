"""A real HTTP server on a free port that answers as it is told, and remembers what it was asked."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Reply:
    """One answer. `cut` closes the connection without one; `hold_s` keeps the client waiting first."""

    def __init__(self, status=200, body=b"", *, headers=(), cut=False, hold_s=0.0):
        self.status, self.headers, self.cut, self.hold_s = status, dict(headers), cut, hold_s
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class Scripted:
    """Use as a context manager. `replies` go out one after the other, the last one again and again.

    A function in the place of a reply is given the request's body and makes the reply.
    """

    def __init__(self, *replies):
        self.replies = list(replies)
        self.asked = []
        self.times = []
        self.together = self.most_together = 0
        self._lock = threading.Lock()

    def __enter__(self):
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def do_POST(self):
                script._answer(self)

            do_GET = do_DELETE = do_POST  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.times.append(time.monotonic())
            self.asked.append((handler.command, handler.path, dict(handler.headers), body))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        reply = reply(body) if callable(reply) else reply
        time.sleep(reply.hold_s)
        with self._lock:
            self.together -= 1
        if reply.cut:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.headers.get("Connection") == "close":
            handler.close_connection = True
        else:
            handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body)


def problem(status, code="made_up", *, errors=None, **headers):
    """A refusal as the service writes it."""
    body = {"type": "about:blank", "title": "No", "status": status, "detail": "Do it otherwise.", "code": code}
    body |= {"request_id": "abc", **({"errors": errors} if errors else {})}
    return Reply(status, body, headers={"Content-Type": "application/problem+json", **headers})


TOPIC = {
    "label": "World",
    "confidence": 0.5,
    "probabilities": {"World": 0.5, "Sports": 0.5},
    "model": {"name": "topic-gru", "version": 1},
}
MODEL = {
    "name": "digit-cnn",
    "task": "digit",
    "kind": "image",
    "default": True,
    "live": 1,
    "previous": None,
    "serving": 1,
    "provider": None,
    "problem": None,
    "versions": [],
}


def job(status="queued"):
    """A job as the service tells it."""
    return {"id": "j1", "status": status, "spec": {"task": "digit"}, "created_at": "2026-11-23T08:00:00Z"}


def stream(*events, retry_ms=10):
    """Server-sent events (id, type, data), without an id where it is None; the connection ends after them."""
    text = f"retry: {retry_ms}\n\n: comment\n\n"
    text += "".join(
        f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n" + (f"id: {place}\n\n" if place else "\n")
        for place, kind, data in events
    )
    headers = {"Content-Type": "text/event-stream", "Connection": "close"}
    return Reply(200, text.encode(), headers=headers)
