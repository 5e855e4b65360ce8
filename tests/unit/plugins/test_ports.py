"""Whose port it is, in the words of ss and systemctl."""

import pytest

from plugins.filter.ports import taken_ports

NGINX = (
    'LISTEN 0 511 0.0.0.0:4000 0.0.0.0:* users:(("nginx",pid=9,fd=6),("nginx",pid=8,fd=6))'
    " cgroup:/system.slice/nginx.service"
)
SSHD = (
    'LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=7,fd=3)) cgroup:/system.slice/ssh.service ino:1'
)
BY_SYSTEMD = (
    'LISTEN 0 4096 0.0.0.0:8080 0.0.0.0:* users:(("systemd",pid=1,fd=44)) cgroup:/init.scope'
)
SOCKET = "0.0.0.0:8080 heartcode.socket heartcode.service"


def said(port: int, unit: str, listeners: list[str], sockets: list[str] | None = None) -> list[str]:
    wanted = [{"port": port, "unit": unit, "variable": "some_port"}]
    answers = {
        "listeners": {"stdout_lines": listeners},
        "sockets": {"stdout_lines": sockets or []},
    }
    return taken_ports(wanted, "rig1", answers)


@pytest.mark.parametrize(
    ("port", "unit", "sockets"),
    [
        (4001, "nginx.service", []),
        (400, "x.service", []),  # 4000 only begins so
        (4000, "nginx.service", []),
        (8080, "heartcode.service", [SOCKET]),
    ],
)
def test_a_port_is_free_or_our_own(port: int, unit: str, sockets: list[str]) -> None:
    assert said(port, unit, [NGINX, SSHD, BY_SYSTEMD], sockets) == []


@pytest.mark.parametrize(
    ("port", "unit", "sockets", "holder"),
    [
        (22, "heartcode.service", [], 'users:(("sshd",pid=7,fd=3))'),
        (4000, "nginx-other.service", [], 'users:(("nginx",pid=9,fd=6),("nginx",pid=8,fd=6))'),
        (8080, "heartcode.service", [], 'users:(("systemd",pid=1,fd=44))'),
        (8080, "other.service", [SOCKET], 'users:(("systemd",pid=1,fd=44))'),
    ],
)
def test_who_else_has_it_is_told(port: int, unit: str, sockets: list[str], holder: str) -> None:
    (sentence,) = said(port, unit, [NGINX, SSHD, BY_SYSTEMD], sockets)
    assert sentence.startswith(f"rig1: port {port} (some_port) is in use by {holder}. Stop")
    assert sentence.endswith("that program or set some_port to a free port.")


def test_a_holder_that_ss_does_not_name_is_another_program() -> None:
    (sentence,) = said(5, "x.service", ["LISTEN 0 1 0.0.0.0:5 0.0.0.0:*"])
    assert "is in use by another program." in sentence
