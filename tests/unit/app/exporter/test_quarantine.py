from __future__ import annotations

from pathlib import Path

from heartcode.exporter.quarantine import Quarantine
from prometheus_client import CollectorRegistry, generate_latest


def test_it_tells_which_backends_are_in_quarantine_now(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(Quarantine(tmp_path, ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]))

    def said() -> dict[str, float | None]:
        return {
            name: registry.get_sample_value("backend_quarantined", {"backend": name})
            for name in ("127.0.0.1:8081", "127.0.0.1:8082")
        }

    # Nothing has run yet, so there is no directory either.
    assert said() == {"127.0.0.1:8081": 0, "127.0.0.1:8082": 0}
    file = tmp_path / "llama/1.quarantined"
    file.parent.mkdir()
    file.write_text("GPU-00000000-0000-0000-0000-000000000000: the GPU is lost\n")
    assert said() == {"127.0.0.1:8081": 0, "127.0.0.1:8082": 1}
    assert b"# TYPE backend_quarantined gauge" in generate_latest(registry)
    file.unlink()
    assert said() == {"127.0.0.1:8081": 0, "127.0.0.1:8082": 0}
