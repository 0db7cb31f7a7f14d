"""Who gets in, and who does not: the live page's server, without a browser."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from insights_cases import Bag, bag_arguments

from captum_ehr.insights import AttributionVisualizer, PortInUseError, Server, api
from captum_ehr.insights.guard import LARGEST
from captum_ehr.insights.watching import watched

ROOT = Path(__file__).resolve().parents[1]
PATHS = ("/", "/alive", "/ask", "/stream", "/nothing")


def visualizer() -> AttributionVisualizer:
    model = Bag()
    return AttributionVisualizer(model, *bag_arguments(model))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with visualizer().serve() as running:
        yield running


def get(
    server: Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, str]:
    """Status and text of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
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

    @pytest.mark.parametrize("query", ["", "?token=", "?token=wrong"])
    @pytest.mark.parametrize("path", [*PATHS, "/favicon.ico"])
    def test_nothing_without_the_token(
        self, server: Server, path: str, query: str
    ) -> None:
        for method in ("GET", "POST"):
            status, text = get(server, path + query, method=method)
            assert status == 403
            assert "q0" not in text and server.token not in text

    def test_a_wrong_token_beside_the_right_one(self, server: Server) -> None:
        assert get(server, f"/?token={server.token}&token=wrong")[0] == 403

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""]
    )
    def test_a_foreign_host_header_is_refused(self, server: Server, host: str) -> None:
        header = host.format(port=server.port)
        for path in PATHS:
            for method in ("GET", "POST"):
                status = get(server, entry(server, path), method, Host=header)[0]
                assert status in (400, 403)

    def test_localhost_is_this_machine_too(self, server: Server) -> None:
        host = f"localhost:{server.port}"
        assert get(server, entry(server), Host=host)[0] == 200

    def test_more_names_may_be_given(self) -> None:
        names = ["Lab.example", "localhost:8000", "proxy.example:443"]
        with visualizer().serve(hosts=names) as named:
            proxied = ("proxy.example:443", "proxy.example")
            for host in (f"lab.example:{named.port}", "localhost:8000", *proxied):
                assert get(named, entry(named), Host=host)[0] == 200
            assert get(named, entry(named), Host="lab.example:1")[0] == 403
            assert named.url.startswith("http://127.0.0.1:")

    def test_the_token_is_in_no_repr(self, server: Server) -> None:
        assert server.token not in repr(server)


class TestHeaders:
    """Of every answer: nothing is kept, framed or told to others."""

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "NONE"])
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("known", [True, False])
    def test_on_all_answers(
        self, server: Server, method: str, path: str, known: bool
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request(method, entry(server, path) + "&v=1" if known else path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in ((200, 204, 404, 405) if known else (403,))
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
        assert answer.split()[1] == (b"413" if known else b"403")

    def test_the_token_is_in_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(0)
        with visualizer().serve() as traced:
            for path in PATHS:
                get(traced, entry(traced, path))
        assert "TRACE" in caplog.text and traced.token not in caplog.text


def post(server: Server, path: str, question: Any, **headers: str) -> Any:
    """The open response to a question, and its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = question if isinstance(question, bytes) else json.dumps(question)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", entry(server, path), body, names)
    return connection.getresponse(), connection


class TestQuestions:
    def test_as_json(self, server: Server) -> None:
        for question, word in (({"kind": "view", "row": 2}, "result"), ({}, "error")):
            response, connection = post(server, "/ask", question)
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json"
            assert list(json.load(response)) == [word]
            connection.close()

    @pytest.mark.parametrize("path", ["/ask", "/stream"])
    def test_what_is_no_question_is_said(self, server: Server, path: str) -> None:
        for body in (b"", b"{", b"\xff", b"[1]"):
            response, connection = post(server, path, body)
            assert json.load(response) == {
                "error": "A question is an object with a kind."
            }
            connection.close()

    @pytest.mark.parametrize("path", PATHS)
    def test_a_foreign_origin_is_refused(self, server: Server, path: str) -> None:
        for origin in (
            "http://evil.example",
            f"http://evil.example:{server.port}",
            "http://127.0.0.1:1",
            "null",
        ):
            response, connection = post(server, path, {"rows": [0]}, Origin=origin)
            assert response.status == 403 and b"deltas" not in response.read()
            connection.close()
        origin = f"http://127.0.0.1:{server.port}"
        response, connection = post(server, path, {"rows": [0]}, Origin=origin)
        assert response.status in (200, 404, 405)
        connection.close()

    @pytest.mark.parametrize("path", PATHS)
    def test_too_large_a_body_is_refused(self, server: Server, path: str) -> None:
        large = b" " * (LARGEST + 1)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.putrequest("POST", entry(server, path))
        connection.putheader("Content-Length", str(len(large)))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()

    @pytest.mark.parametrize("path", ["/ask", "/stream"])
    def test_also_where_its_length_is_not_told(self, server: Server, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        pieces = (b" " * 2**16 for _ in range(LARGEST // 2**16 + 1))
        connection.request("POST", entry(server, path), pieces, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 413
        assert response.headers["Cache-Control"] == "no-store"
        connection.close()

    def test_no_path_of_this_machine_is_told(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = visualizer()
        with shown.serve() as server:
            for error in (
                FileNotFoundError(2, "No such file", "/home/somebody/secret.pt"),
                RuntimeError("cannot read /home/somebody/secret.pt"),
                ValueError(r"C:\Users\somebody\secret.pt is broken"),
                EOFError("secret"),
            ):
                monkeypatch.setattr(shown, "scene", Mock(side_effect=error))
                monkeypatch.setattr(shown, "contributions", Mock(side_effect=error))
                for path in ("/ask", "/stream"):
                    question = {"kind": "view", "row": 0, "rows": [0]}
                    response, connection = post(server, path, question)
                    (said,) = json.load(response).values()
                    connection.close()
                    assert "secret" not in said and type(error).__name__ in said
                    assert "secret" in caplog.text
                    caplog.clear()


class TestStream:
    def test_it_comes_in_lines(self, server: Server) -> None:
        response, connection = post(server, "/stream", {"rows": [4, 1, 0]})
        assert response.headers["Content-Type"] == "application/x-ndjson"
        pieces = [json.loads(line) for line in response]
        assert {row for one in pieces for row in one["deltas"]} == {"0", "1", "4"}
        connection.close()

    def test_who_hangs_up_stops_the_computation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It goes on to no other batch, and the server answers others meanwhile."""
        monkeypatch.setattr(api, "_PAUSE", 0.0)
        slow = Slow()
        with slow.serve() as server:
            response, connection = post(server, "/stream", {"rows": [*range(5)]})
            slow.go_on.release()
            assert json.loads(response.readline())["deltas"]
            assert slow.begun.acquire(timeout=10) and slow.begun.acquire(timeout=10)
            assert get(server, entry(server))[0] == 200
            connection.sock.shutdown(socket.SHUT_RDWR)
            response.close()
            connection.close()
            time.sleep(0.3)
            slow.go_on.release(10)
            until_quiet(server)
            assert not slow.begun.acquire(timeout=0.2)

    def test_stopping_ends_it(self, caplog: pytest.LogCaptureFixture) -> None:
        slow = Slow()
        server = slow.serve()
        response, connection = post(server, "/stream", {"rows": [*range(5)]})
        waiting, other = [], threading.Thread(target=lambda: waiting.append(ask()))

        def ask() -> int:
            question = {"kind": "view", "row": 0}
            return int(post(server, "/ask", question)[0].status)

        assert slow.begun.acquire(timeout=10)
        other.start()
        time.sleep(0.3)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 3 and not server.is_running
        assert response.read() == b""
        other.join(10)
        assert waiting == [503]
        connection.close()
        assert server.is_computing
        slow.go_on.release(10)
        until_quiet(server)
        assert not [one for one in caplog.records if one.levelname == "ERROR"]


class Slow(AttributionVisualizer):
    """One patient at a time, when told to go on."""

    def __init__(self) -> None:
        model = Bag()
        super().__init__(model, *bag_arguments(model), methods=["IntegratedGradients"])
        method = self.methods["IntegratedGradients"]
        self.methods["IntegratedGradients"] = replace(method, together=1)
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def contributions(self, patients: Any, setting: Any) -> Any:
        self.begun.release()
        self.go_on.acquire(timeout=20)
        return super().contributions(patients, setting)

    def scene(self, *arguments: Any) -> Any:
        self.go_on.acquire(timeout=20)
        return super().scene(*arguments)


def until_quiet(server: Server) -> None:
    """Wait until nothing is computed any more."""
    end = time.monotonic() + 20
    while server.is_computing:
        assert time.monotonic() < end
        time.sleep(0.02)


class TestLife:
    def test_it_needs_no_bokeh(self) -> None:
        program = (
            "import sys, captum_ehr.insights.server, captum_ehr.insights.inline_frame\n"
            "assert not {'bokeh', 'tornado'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)

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


@pytest.mark.complete
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
        from captum_ehr.insights.launch import load
        from captum_ehr.insights.study import StartError

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

        from captum_ehr.insights.launch import show

        with pytest.raises(PortInUseError):
            show(Console(), "absent:show", port=server.port, address="127.0.0.1")


class TestToken:
    def test_the_page_says_it_in_a_header(self, server: Server) -> None:
        said = {"X_Insights_Token": server.token}
        assert get(server, "/alive", **said)[0] == 204
        assert get(server, "/alive", X_Insights_Token="wrong")[0] == 403
        assert get(server, "/alive?token=wrong", **said)[0] == 403
        # A proxy's own.
        assert get(server, entry(server), Authorization="Basic x")[0] == 200

    def test_a_refusal_lets_a_reloaded_tab_in(self, server: Server) -> None:
        """By what the browser keeps for it; the answer itself has nothing."""
        _, text = get(server, "/")
        assert "sessionStorage" in text and server.token not in text
        status, text = get(server, "/", Host="evil.example")
        assert status == 403 and "sessionStorage" not in text


class TestWatching:
    """How far a slow method is, and its end."""

    def test_what_was_counted_is_what_was_foretold(self) -> None:
        model = Bag()
        names = ["FeatureAblation", "Occlusion", "ShapleyValueSampling", "Lime"]
        shown = AttributionVisualizer(model, *bag_arguments(model), methods=names)
        for name in names:
            runs: list[tuple[int, int | None]] = []

            def tell(*run: Any, runs: list[Any] = runs) -> None:
                runs.append(run)

            with watched(tell, threading.Event()):
                shown.view(0, name)
            assert [done for done, _ in runs] == [*range(1, len(runs) + 1)]
            assert runs[-1][1] is not None and abs(len(runs) - runs[-1][1]) <= 1, name
            assert not model._forward_pre_hooks

    def test_a_view_says_how_far_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api, "_PAUSE", 0.0)
        model = Bag()
        methods = ["ShapleyValueSampling"]
        shown = AttributionVisualizer(model, *bag_arguments(model), methods=methods)
        *pieces, last = api.progress(shown, {"kind": "view", "row": 1})
        shares = [piece["done"] / piece["of"] for piece in pieces]
        assert len(shares) > 10 and shares == sorted(shares) and shares[-1] <= 1
        assert last["result"]["rows"]

    def test_it_ends_between_two_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api, "_PAUSE", 0.0)
        model, stopped = Bag(), threading.Event()
        methods = ["ShapleyValueSampling"]
        shown = AttributionVisualizer(model, *bag_arguments(model), methods=methods)
        said = []
        for piece in api.progress(shown, {"kind": "view", "row": 0}, stopped):
            said.append(piece)
            stopped.set()
        assert said[-1] == {"error": "Cancelled: nobody waits for it."}
        (cohort,) = api.progress(shown, {"rows": [0, 1]}, stopped)
        assert cohort == said[-1]
        assert not model._forward_pre_hooks

    def test_more_than_a_file_is_meant_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, "LIMIT", 2)
        question = {"kind": "page", "rows": [0, 1, 2], "settings": [{}]}
        assert "error" in api.answer(visualizer(), question)
        page = api.answer(visualizer(), {**question, "all": True})["result"]
        assert "the data of 3 patients" in page
