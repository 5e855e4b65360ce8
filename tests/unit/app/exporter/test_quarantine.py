from __future__ import annotations

from pathlib import Path

from heartcode.exporter.cards import labels_of
from heartcode.exporter.quarantine import Quarantine
from prometheus_client import CollectorRegistry, generate_latest


def test_it_tells_which_backends_are_in_quarantine_now(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    backends = ["http://127.0.0.1:8081", "http://127.0.0.1:8082"]
    registry.register(Quarantine(tmp_path, backends, []))

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


def test_it_names_the_card_of_a_group_that_is_gone(tmp_path: Path) -> None:
    backends = ["http://127.0.0.1:8081", "http://127.0.0.1:8082", "http://127.0.0.1:8083"]
    cards = list(labels_of([["GPU-a"], ["GPU-b@rig2", "GPU-c"], ["cpu"]], backends))
    assert cards == [
        ("0", "GPU-a", "127.0.0.1:8081"),
        ("1.0", "GPU-b@rig2", "127.0.0.1:8082"),
        ("1.1", "GPU-c", "127.0.0.1:8082"),
    ]
    registry = CollectorRegistry()
    registry.register(Quarantine(tmp_path, backends, cards))

    def gone() -> list[str]:
        return [
            gpu
            for gpu, uuid, backend in cards
            if registry.get_sample_value(
                "gpu_quarantined", {"gpu": gpu, "uuid": uuid, "backend": backend}
            )
        ]

    assert gone() == []
    (tmp_path / "llama").mkdir()
    sign = tmp_path / "llama/1.quarantined"
    sign.touch()  # about to be written
    assert gone() == []
    assert registry.get_sample_value("backend_quarantined", {"backend": "127.0.0.1:8082"}) == 1
    sign.write_text("GPU-c: the GPU is lost\n")
    assert gone() == ["1.1"]
