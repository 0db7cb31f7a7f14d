"""Who gets in, and who does not: the live page's server, without a browser."""

from __future__ import annotations

import asyncio
import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from insights_cases import Bag, bag_arguments

from captum_ehr.insights import AttributionVisualizer, PortInUseError, Server

ROOT = Path(__file__).resolve().parents[1]


def visualizer() -> AttributionVisualizer:
    model = Bag()
    return AttributionVisualizer(model, *bag_arguments(model))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with visualizer().serve() as running:
        yield running


def get(server: Server, path: str, **headers: str) -> tuple[int, str]:
    """Status and text of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def entry(server: Server, path: str = "/") -> str:
    return f"{path}?token={server.token}"


class TestGuard:
    def test_the_printed_address_opens_the_page(self, server: Server) -> None:
        parts = urlsplit(server.url)
        assert parts.hostname == "127.0.0.1" and parts.port == server.port
        status, text = get(server, f"{parts.path}?{parts.query}")
        assert status == 200 and '"id":"q0"' in text
        assert len(server.token) >= 32

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/?token=",
            "/?token=wrong",
            "/ws",
            "/autoload.js",
            "/metadata",
            "/static/js/bokeh.min.js",
            "/favicon.ico",
            "/nothing",
        ],
    )
    def test_nothing_without_the_token(self, server: Server, path: str) -> None:
        status, text = get(server, path)
        assert status == 403
        assert "q0" not in text and server.token not in text

    def test_a_wrong_token_beside_the_right_one(self, server: Server) -> None:
        assert get(server, f"/?token={server.token}&token=wrong")[0] == 403

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""]
    )
    def test_a_foreign_host_header_is_refused(self, server: Server, host: str) -> None:
        given = host.format(port=server.port)
        assert get(server, entry(server), Host=given)[0] in (400, 403)

    def test_localhost_is_this_machine_too(self, server: Server) -> None:
        host = f"localhost:{server.port}"
        assert get(server, entry(server), Host=host)[0] == 200

    def test_more_names_may_be_given(self) -> None:
        with visualizer().serve(hosts=["Lab.example", "localhost:8000"]) as named:
            for host in (f"lab.example:{named.port}", "localhost:8000"):
                assert get(named, entry(named), Host=host)[0] == 200
            assert get(named, entry(named), Host="lab.example:1")[0] == 403
            assert named.url.startswith("http://127.0.0.1:")

    def test_the_token_is_in_no_repr(self, server: Server) -> None:
        assert server.token not in repr(server)


class TestHeaders:
    """Of every answer: nothing is kept, framed or told to others."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "NONE"])
    @pytest.mark.parametrize(
        "path", ["/", "/static/js/bokeh.min.js", "/nothing", "/ws"]
    )
    @pytest.mark.parametrize("known", [True, False])
    def test_on_all_answers(
        self, server: Server, method: str, path: str, known: bool
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request(method, entry(server, path) + "&v=1" if known else path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in ((200, 400, 404, 405) if known else (403, 405))
        assert answer.headers.get_all("Cache-Control") == ["no-store"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        connection.close()

    def test_a_notebook_may_show_it_in_a_frame(self) -> None:
        with visualizer().serve(framed=True) as framed:
            connection = http.client.HTTPConnection("127.0.0.1", framed.port)
            connection.request("GET", entry(framed))
            answer = connection.getresponse()
            answer.read()
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Frame-Options"] is None
            connection.close()

    @pytest.mark.parametrize("known", [True, False])
    def test_a_body_is_not_waited_for(self, server: Server, known: bool) -> None:
        path = entry(server) if known else "/?token=wrong"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
            host = f"Host: 127.0.0.1:{server.port}"
            head = f"POST {path} HTTP/1.1\r\n{host}\r\nContent-Length: {2**26}\r\n\r\n"
            one.sendall(head.encode())
            answer = b""
            while part := one.recv(4096):  # until it hangs up, with no byte sent
                answer += part
        assert answer.split()[1] == (b"400" if known else b"403")

    def test_the_token_is_in_no_log(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(0)
        for path in ("/", "/nothing"):
            get(server, entry(server, path))
        assert server.token not in caplog.text


class TestSocket:
    def connect(self, server: Server, session: str, **options: Any) -> Any:
        """Open the WebSocket as a browser does; the first message, or None."""
        from tornado.httpclient import HTTPRequest
        from tornado.websocket import websocket_connect

        token = options.get("token", server.token)
        origin = options.get("origin", f"http://127.0.0.1:{server.port}")

        async def run() -> Any:
            request = HTTPRequest(
                f"ws://127.0.0.1:{server.port}/ws?token={token}",
                headers={"Origin": origin},
                connect_timeout=5,
            )
            socket_ = await websocket_connect(request, subprotocols=["bokeh", session])
            message = await asyncio.wait_for(socket_.read_message(), 5)
            socket_.close()
            return message

        return asyncio.run(run())

    def session(self, server: Server) -> str:
        _, text = get(server, entry(server))
        found = re.search(r'id="session"[^>]*>"([^"]+)"', text)
        assert found is not None
        return found.group(1)

    def test_the_page_gets_in(self, server: Server) -> None:
        assert self.connect(server, self.session(server)) is not None

    def test_a_foreign_origin_is_refused(self, server: Server) -> None:
        from tornado.httpclient import HTTPClientError

        for origin in ("http://evil.example", f"http://evil.example:{server.port}"):
            with pytest.raises(HTTPClientError, match="403"):
                self.connect(server, self.session(server), origin=origin)

    def test_a_wrong_token_is_refused(self, server: Server) -> None:
        from tornado.httpclient import HTTPClientError

        with pytest.raises(HTTPClientError, match="403"):
            self.connect(server, self.session(server), token="wrong")

    def test_a_session_of_ones_own_making_is_refused(self, server: Server) -> None:
        from bokeh.util.token import generate_jwt_token, generate_session_id

        forged = generate_jwt_token(generate_session_id(signed=False), signed=False)
        assert self.connect(server, forged) is None


class TestLife:
    def test_a_taken_port_is_named(self, server: Server) -> None:
        with pytest.raises(PortInUseError, match=f"Port {server.port} of 127.0.0.1"):
            visualizer().serve(port=server.port)
        with pytest.raises(ValueError, match="no port 70000"):
            visualizer().serve(port=70000)

    def test_two_servers_in_one_process_stay_apart(self, server: Server) -> None:
        with visualizer().serve() as other:
            assert other.port != server.port and other.token != server.token
            assert get(other, entry(other))[0] == 200
            assert get(other, entry(server))[0] == 403
        assert not other.is_running and server.is_running
        with pytest.raises(ConnectionError):
            get(other, entry(other))
        assert get(server, entry(server))[0] == 200

    def test_a_port_is_free_again_after_the_end(self) -> None:
        with visualizer().serve() as first:
            port = first.port
        with visualizer().serve(port=port) as second:
            assert second.port == port
            second.stop()
            second.stop()

    def test_blocking_ends_with_stop(self) -> None:
        from captum_ehr.insights.server import Server as Kind

        running = Kind(visualizer())
        waiting = threading.Thread(target=running.wait)
        waiting.start()
        running.stop()
        waiting.join(5)
        assert not waiting.is_alive()

    def test_it_knows_whether_it_computes(self, server: Server) -> None:
        from captum_ehr.insights.server import _in_thread

        until = threading.Event()

        async def ask() -> str:
            task = asyncio.ensure_future(_in_thread(lambda: until.wait(10) and "done"))
            await asyncio.sleep(0.01)
            assert server.is_computing
            until.set()
            return str(await task)

        assert asyncio.run(ask()) == "done"

    def test_other_addresses_are_warned_of(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with visualizer().serve(address="0.0.0.0") as open_:
            assert "not encrypted" in caplog.text
            assert get(open_, entry(open_), Host="evil.example")[0] == 403


STUDY = """
import sys
sys.path.insert(0, {tests!r})
from insights_cases import Bag, bag_arguments
from captum_ehr.insights import AttributionVisualizer

def show():
    model = Bag()
    return AttributionVisualizer(model, *bag_arguments(model))

def nothing():
    return 3
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "own_study.py").write_text(STUDY.format(tests=str(ROOT / "tests")))
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "captum_ehr.cli", "insights", *arguments],
        cwd=folder,
        env={
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "40",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestCommand:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_it_serves_prints_the_address_and_ends_when_told(
        self, tmp_path: Path, how: int
    ) -> None:
        process = start(tmp_path, "own_study:show")
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            url = next(line.strip() for line in lines if "token=" in line)
            parts = urlsplit(url)
            connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
            connection.request("GET", f"/?{parts.query}")
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(how)
            assert process.wait(20) == 0
            assert "Stopped." in process.stdout.read()
        finally:
            process.kill()

    def test_what_cannot_be_shown_is_said_in_a_line(self, tmp_path: Path) -> None:
        process = start(tmp_path, "own_study:nothing")
        _, said = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "returned int, expected (model, dataset)" in " ".join(said.split())
        assert "Traceback" not in said

    def test_what_is_no_function_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from captum_ehr.insights.starting import StartError, load

        (tmp_path / "own_study.py").write_text(STUDY.format(tests=str(ROOT / "tests")))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(StartError, match="own_study has no function 'absent'"):
            load("own_study:absent")
        with pytest.raises(StartError, match="There is no module 'absent'"):
            load("absent:show")
        with pytest.raises(StartError, match="names no function"):
            load("own_study")
        assert len(load("own_study:show")) == 5

    def test_a_taken_port_is_found_before_anything_is_loaded(
        self, server: Server
    ) -> None:
        from rich.console import Console

        from captum_ehr.insights.starting import show

        with pytest.raises(PortInUseError):
            show(Console(), "absent:show", port=server.port, address="127.0.0.1")
