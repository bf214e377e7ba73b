"""A hub of one test process: the few answers of the real one that a download needs."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories {"owner/name": {file name: bytes}}, and a log of what was asked.

    `gated` repositories refuse their files; `break_after` cuts the next download of a weight file
    after that many bytes, and with `then_refuse` those that follow fail; `declared` overrides a
    file's stated size; `sent` counts the bytes of files. With `elsewhere`, weight files lie on
    another host, as behind the real hub. `odd_heads` and `odd_gets` are the answers to the next
    requests for weight files, one each: functions of (handler, data), in the hub's stead.
    """

    def __init__(self, repositories):
        self.repositories = repositories
        self.gated = set()
        self.break_after = None
        self.then_refuse = False
        self.declared = {}
        self.elsewhere = False
        self.odd_heads = []
        self.odd_gets = []
        self.requests = []
        self.sent = 0
        self.tokens = {"hub": set(), "elsewhere": set()}
        self.endpoint = ""

    def downloads(self):
        """(file name, Range header) of every GET of a file."""
        return [(name, span) for method, name, span in self.requests if method == "GET" and name]


@contextmanager
def serve(repositories):
    """Run a FakeHub on a free local port."""
    hub = FakeHub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def lfs(name, data):
    """What the hub says of large files besides their size."""
    if not name.endswith(".safetensors"):
        return {}
    digest = hashlib.sha256(data).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(data), "pointerSize": 134}}


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            path = self.path.split("?")[0]
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
                return self.api(found[1], found[2] or "")
            found = re.fullmatch(r"/([^/]+/[^/]+)/(resolve|elsewhere)/[^/]+/(.+)", path)
            host = "elsewhere" if found and found[2] == "elsewhere" else "hub"
            hub.tokens[host].add(self.headers.get("Authorization"))
            files = hub.repositories.get(found[1]) if found else None
            if files is None:
                return self.refuse(404, "RepoNotFound")
            hub.requests.append((self.command, found[3], self.headers.get("Range", "")))
            if found[1] in hub.gated:
                return self.refuse(403, "GatedRepo")
            if found[3] not in files:
                return self.refuse(404, "EntryNotFound")
            weights = found[3].endswith(".safetensors")
            odd = hub.odd_gets if body else hub.odd_heads
            if weights and odd and (body is False or host == "elsewhere" or not hub.elsewhere):
                return odd.pop(0)(self, files[found[3]])
            if hub.elsewhere and host == "hub" and weights:
                return self.redirect(path, files[found[3]])
            return self.file(found[3], files[found[3]], body)

        def api(self, repository, rest):
            hub.requests.append((self.command, "", ""))
            files = hub.repositories.get(repository)
            if files is None:
                return self.refuse(401, "RepoNotFound")
            if rest.startswith("/revision/") and rest.split("/")[2] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            sizes = {name: hub.declared.get(name, len(data)) for name, data in files.items()}
            if rest.startswith("/tree/"):
                return self.json(
                    [
                        {"type": "file", "path": n, "size": s, "oid": "0" * 40}
                        for n, s in sizes.items()
                    ]
                )
            siblings = [
                {"rfilename": name, "size": size, **lfs(name, files[name])}
                for name, size in sizes.items()
            ]
            return self.json({"id": repository, "sha": COMMIT, "siblings": siblings})

        def file(self, name, data, body):
            span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(span[1]) if span else 0
            part = data[first : int(span[2]) + 1 if span and span[2] else None]
            cut = hub.break_after if body and name.endswith(".safetensors") else None
            if cut == 0:
                return self.refuse(410, "")
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(len(part)))
            if span:
                last = first + len(part) - 1
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                hub.sent += len(part)
                self.wfile.write(part if cut is None else part[:cut])
            if cut is not None:
                hub.break_after = 0 if hub.then_refuse else None
                self.close_connection = True
            return None

        def answer_with(self, status, body=b"", **headers):
            """Any answer at all: header names with _ for -, no others but those that are given."""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def redirect(self, path, data):
            there = hub.endpoint.replace("127.0.0.1", "localhost")
            self.send_response(302)
            self.send_header("Location", there + path.replace("/resolve/", "/elsewhere/"))
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def json(self, value):
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, status, code):
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", "refused by the test")
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
