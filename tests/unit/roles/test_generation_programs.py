"""What is asked of a rig while it is emptied and after it was switched."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

FILES = Path(__file__).parents[3] / "roles/generation/files"
GOOD = """# HELP backend_up 1 if the backend is known to generate.
backend_up{backend="http://127.0.0.1:8081"} 1.0
backend_quarantined{backend="http://127.0.0.1:8081"} 0.0
backend_info{backend="http://127.0.0.1:8081",model="counting"} 1.0
inference_requests_total{endpoint="chat",outcome="failed",status="502"} 3.0
"""
#: Its card is gone: it is down, as it has to be.
GONE = """backend_up{backend="http://127.0.0.1:8082"} 0.0
backend_quarantined{backend="http://127.0.0.1:8082"} 1.0
backend_info{backend="http://127.0.0.1:8082",model="other"} 1.0
"""


@contextmanager
def rig(*metrics: str, token: int = 200) -> Iterator[str]:
    """A proxy and an exporter in one; the last of its metrics stays."""
    left = list(metrics)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            self.answer(200, left.pop(0) if len(left) > 1 else left[0])

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if token == 200 and asked["model"] == "counting":
                self.answer(200, json.dumps({"choices": [{"text": " 2"}]}))
            else:
                self.answer(503, json.dumps({"error": {"message": f"no {asked['model']}"}}))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As on a host, where it comes through standard input.
    return subprocess.run(
        [sys.executable, "-", *arguments],
        input=(FILES / program).read_text(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def soak(url: str, *models: str, seconds: float = 0.1) -> subprocess.CompletedProcess[str]:
    told = (f"--proxy={url}", f"--metrics={url}/metrics", "--ready=60", f"--seconds={seconds}")
    return run("soak.py", *told, f"--models={json.dumps(models)}")


def test_a_rig_that_serves_passes() -> None:
    with rig(GOOD) as url:
        done = soak(url, "counting")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a token of counting; nothing failed in 0.1 s\n"


def test_a_card_that_is_gone_is_no_failure() -> None:
    with rig(GOOD + GONE) as url:
        done = soak(url, "counting", "other")
    assert done.returncode == 0, done.stderr


def test_without_a_token_it_does_not_pass() -> None:
    with rig(GOOD, token=503) as url:
        done = soak(url, "counting")
    assert done.returncode == 1
    assert "the proxy gave no token of counting" in done.stderr
    assert "no counting" in done.stderr


def test_an_answer_that_fails_while_it_is_looked_at_is_told() -> None:
    with rig(GOOD, GOOD.replace("3.0", "4.0")) as url:
        done = soak(url, "counting")
    assert done.returncode == 1
    assert 'outcome="failed",status="502"} has grown by 1' in done.stderr


def test_a_backend_that_goes_down_while_it_is_looked_at_is_told() -> None:
    with rig(GOOD, GOOD.replace('8081"} 1.0', '8081"} 0.0')) as url:
        done = soak(url, "counting")
    assert done.returncode == 1
    assert "is 0" in done.stderr


def test_a_rig_is_empty_when_nothing_runs_for_a_moment() -> None:
    busy, idle = "active_requests 2.0\n", "active_requests 0.0\n"
    with rig(busy, idle, busy, idle) as url:
        done = run("wait_until_empty.py", url, "60")
    assert done.returncode == 0
    assert "no request ran any more" in done.stdout


def test_what_does_not_end_is_left_after_its_time() -> None:
    with rig("active_requests 2.0\n") as url:
        done = run("wait_until_empty.py", url, "0.1")
    assert done.returncode == 0
    assert done.stdout == "2 requests ran still after 0.1 s\n"


def test_where_nobody_can_tell_nothing_is_waited_for() -> None:
    done = run("wait_until_empty.py", "http://127.0.0.1:9/metrics", "60")
    assert done.returncode == 0
    assert "nobody could tell" in done.stdout
