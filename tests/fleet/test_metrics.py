"""What Prometheus on the gateway knows of the fleet."""

from tests.counting import chat
from tests.fleet.harness import Fleet, wait_for


def test_every_target_is_up(fleet: Fleet) -> None:
    expected = {("prometheus", "127.0.0.1:9090")}
    expected |= {("heartcode", f"{fleet.addresses[rig]}:9091") for rig in fleet.rigs}
    expected.add(("nginx", f"{fleet.addresses['gateway']}:9113"))
    expected.add(("relay", "127.0.0.1:4003"))
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


def test_a_model_that_the_mirror_lacks_is_seen(fleet: Fleet) -> None:
    file = "/var/lib/heartcode/models/counting.gguf"
    labels = '{host="gateway",file="counting.gguf"}'

    def told(metric: str) -> float | None:
        found = fleet.metrics(f"model_mirror_file_{metric}{labels}")
        return float(found[0]["value"][1]) if found else None

    measure = "systemctl start heartcode-mirror.service"
    assert fleet.ssh("gateway", "systemctl is-active heartcode-mirror.timer") == "active"
    size = int(fleet.ssh("gateway", f"stat -c %s {file}"))
    wait_for(lambda: told("up") == 1, "the mirror has the rigs' model")
    assert told("size_bytes") == told("expected_size_bytes") == size
    fleet.ssh("gateway", f"mv {file} {file}.away && {measure}")
    try:
        wait_for(lambda: told("up") == 0, "the file that is gone is seen in Prometheus")
        assert told("size_bytes") == 0
        assert told("expected_size_bytes") == size
        pending = 'ALERTS{alertname="HeartCodeModelMirrorStale",host="gateway"}'
        wait_for(lambda: fleet.metrics(pending), "the alert begins to wait")
    finally:
        fleet.ssh("gateway", f"mv {file}.away {file} && {measure}")
    wait_for(lambda: told("up") == 1, "and that it is back")


def test_what_is_measured_is_locked_in_and_its_age_is_known(fleet: Fleet) -> None:
    report = fleet.ssh(
        "gateway", "systemd-analyze security --no-pager heartcode-mirror.service | tail -n 1"
    )
    assert float(report.split(":")[1].split()[0]) <= 1.5, report

    def ages() -> dict[str, float]:
        # As the alert asks for it.
        found = fleet.metrics(
            'time() - node_textfile_mtime_seconds{file=~"(.*/)?heartcode_[a-z]+[.]prom"}'
        )
        return {
            series["metric"]["file"].rpartition("/")[2]: float(series["value"][1])
            for series in found
        }

    told = wait_for(ages, "the ages are in Prometheus")
    assert set(told) == {"heartcode_mirror.prom"}, "without TLS there is no certificate to measure"
    assert told["heartcode_mirror.prom"] < 3600
    assert fleet.metrics("node_textfile_scrape_error == 1") == []
