"""The page of a run that goes on: served to this machine, refreshed as points and steps arrive.

    with serving("runs/r20") as served:         # port 0: any that is free
        print(served.url)
        served.wait()                           # until Ctrl-C

The server gives two things: the page, and a word that changes with the run's files; the page asks for the second every second
and takes over the first when it has changed. It reads the run and writes nothing. Requests that name another host are refused,
so that no page of the web can read a run through a name that points here.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET6
from time import monotonic, process_time

from ..errors import LamellaError, RunError
from ..schema import FILES
from .marks import shown
from .page import render
from .stages import TRAININGS, WALKS, read_stages

REST = 9.0  # seconds without drawing for every second of it: what runs here needs the processor more
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
WAITING = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="color-scheme" content="light dark"><title>Lamella: waiting</title></head>
<body><main><h1>Nothing to show yet</h1><p>{}</p></main></body></html>"""


class Served:
    """A server that runs in a thread of its own."""

    def __init__(self, server: ThreadingHTTPServer, url: str) -> None:
        self.url = url
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the server is stopped, or Ctrl-C."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            return

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def serving(directory: str | Path, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Served]:
    """Serve the page of a run. RunError where there is no such directory, or the address cannot be had."""
    directory = Path(directory)
    if not directory.is_dir():
        raise RunError(f"{directory}: no run directory. Start one with `{FILES['run'][1]}`.")
    live = Live(directory)

    class Handler(_Handler):
        page = live
        local = _is_local(host)

    name = f"[{host}]" if ":" in host else host
    try:
        server = (_ServerOfIPv6 if ":" in host else ThreadingHTTPServer)((host, port), Handler)
    except OSError as error:
        raise RunError(
            f"{name}:{port}: cannot be served on ({error.strerror or error}). Name another --port, or another --host: an address of "
            "this machine, such as 127.0.0.1."
        ) from None
    served = Served(server, f"http://{name}:{server.server_address[1]}/")
    try:
        yield served
    finally:
        served.stop()


class _ServerOfIPv6(ThreadingHTTPServer):
    address_family = AF_INET6


class Live:
    """The page of a directory, drawn again when its files have changed, but not so often that drawing takes more than a tenth of a
    processor.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._drawn = ("", "")
        self._rests_until = 0.0
        self._lock = threading.Lock()

    @property
    def news(self) -> str:
        """A word that changes when there is another page to be had."""
        return self._drawn[0] if monotonic() < self._rests_until else self.version

    @property
    def version(self) -> str:
        """A word for the state of the run's files. A journal that grows changes it with every line."""
        names = [FILES[key][0] for key in FILES if not FILES[key][0].endswith((".onnx", ".safetensors", ".html"))]
        found = [self.directory / name for name in names]
        found += sorted(path for pattern in (WALKS, TRAININGS) for path in self.directory.glob(pattern))
        stats = [(p.name, s.st_mtime_ns, s.st_size) for p in found if p.exists() and (s := p.stat())]
        return sha256(repr(stats).encode()).hexdigest()[:16]

    def text(self) -> str:
        """The page, or a page that says why there is none yet."""
        with self._lock:
            version, started = self.news, process_time()
            if self._drawn[0] != version:
                self._drawn = (version, self._render())
                self._rests_until = monotonic() + REST * (process_time() - started)
            return self._drawn[1]

    def _render(self) -> str:
        try:
            return render(read_stages(self.directory), live=True)
        except LamellaError as error:
            return WAITING.format(escape(shown(error)))


class _Handler(BaseHTTPRequestHandler):
    page: Live
    local: bool

    def do_GET(self) -> None:
        if self.local and not _names_this_machine(self.headers.get("Host", "")):
            self._send(403, "text/plain", "this server answers to this machine's own names only")
        elif self.path in ("/", "/index.html"):
            self._send(200, "text/html", self.page.text())
        elif self.path == "/version":
            self._send(200, "text/plain", self.page.news)
        else:
            self._send(404, "text/plain", "not here")

    def _send(self, status: int, kind: str, text: str) -> None:
        data = text.encode("utf-8", errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page that asks every second would fill the screen."""


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.count(":") == 1 or (host.startswith("[") and "]:" in host) else host
    return _is_local(name.strip("[]"))


def _is_local(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
