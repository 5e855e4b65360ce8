"""What Prometheus on the gateway knows of the fleet."""

from tests.fleet.counting import chat
from tests.fleet.harness import Fleet, wait_for


def test_every_target_is_up(fleet: Fleet) -> None:
    expected = {("prometheus", "127.0.0.1:9090")}
    expected |= {("heartcode", f"{fleet.addresses[rig]}:9091") for rig in fleet.rigs}
    expected.add(("nginx", f"{fleet.addresses['gateway']}:9113"))
    expected |= {("node", f"{address}:9100") for address in fleet.addresses.values()}

    def up() -> set[tuple[str, str]]:
        return {
            (series["metric"]["job"], series["metric"]["instance"])
            for series in fleet.metrics("up == 1")
        }

    wait_for(lambda: up() == expected, f"these targets are up: {sorted(expected)}")


def test_nginx_s_connections_and_requests_are_counted(fleet: Fleet) -> None:
    def total() -> float:
        found = fleet.metrics("nginx_http_requests_total")
        return float(found[0]["value"][1]) if found else 0

    before = wait_for(total, "nginx's metrics are in Prometheus")
    chat(fleet, max_tokens=1)
    wait_for(lambda: total() > before, "the request is seen in Prometheus")
    assert fleet.metrics("nginx_up")[0]["value"][1] == "1"


def test_requests_are_counted_under_their_rig(fleet: Fleet) -> None:
    chat(fleet, max_tokens=1)

    def total(rig: str) -> float:
        found = fleet.metrics(f'sum(inference_requests_total{{rig="{rig}"}})')
        return float(found[0]["value"][1]) if found else 0

    wait_for(lambda: sum(map(total, fleet.rigs)) > 0, "the request is seen in Prometheus")


def test_the_first_readmes_metrics_are_exported(fleet: Fleet) -> None:
    text = fleet.ssh("rig1", "curl -fsS http://127.0.0.1:9091/metrics")
    for name in ("inference_requests_total", "inference_duration_seconds", "active_requests"):
        assert f"# TYPE {name.removesuffix('_total')}" in text or f"# TYPE {name} " in text


def test_counters_survive_a_restart_of_the_proxy(fleet: Fleet) -> None:
    def total() -> float:
        lines = fleet.ssh("rig1", "curl -fsS http://127.0.0.1:9091/metrics").splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith("inference_requests_total{"))

    fleet.ssh(
        "rig1",
        'curl -fsS http://127.0.0.1:8080/v1/completions -d \'{"prompt": " 1", "max_tokens": 1}\''
        " -H 'Content-Type: application/json'",
    )
    before = total()
    fleet.ssh("rig1", "systemctl restart heartcode")
    assert total() >= before > 0
