import pytest
from heartcode_models.planner.host_disk import room_for_conversations

GIB = 1024**3


@pytest.mark.parametrize(
    ("disk_gib", "room_gib"), [(0, 0), (16, 0), (39, 0), (40, 4), (119, 11), (465, 46), (4000, 100)]
)
def test_a_tenth_of_the_disk_in_whole_gib(disk_gib: int, room_gib: int) -> None:
    assert room_for_conversations(disk_gib * GIB) == room_gib * 1024
