"""The rehearsal places tensors as ggml does."""

from heartcode_models.planner.graph_allocator import Tensor, buffer_size


def tensor(size: int, *sources: Tensor, in_place: bool = False) -> Tensor:
    return Tensor(layout=(size,), size=size, sources=sources, in_place=in_place)


def view(of: Tensor) -> Tensor:
    return Tensor(layout=of.layout, size=0, sources=(of,), view_of=of.view_of or of)


def test_what_nobody_needs_any_more_is_used_again() -> None:
    first = tensor(1024)
    second = tensor(1024, first)
    assert buffer_size([first, second, tensor(1024, second)]) == 2048


def test_every_place_begins_at_a_multiple_of_128() -> None:
    first = tensor(1)
    assert buffer_size([first, tensor(129, first)]) == 128 + 256


def test_an_operation_in_place_takes_an_operand_over_that_only_it_reads() -> None:
    first = tensor(1024)
    assert buffer_size([first, tensor(1024, first, in_place=True)]) == 1024
    changed = tensor(1024, first, in_place=True)
    assert buffer_size([first, changed, tensor(1024, first, changed)]) == 3072


def test_another_layout_is_not_taken_over() -> None:
    first = tensor(1024)
    assert buffer_size([first, tensor(512, first, in_place=True)]) == 1536


def test_a_view_keeps_its_tensor_and_is_not_taken_over() -> None:
    first = tensor(1024)
    shown = view(first)
    assert buffer_size([first, shown, tensor(1024, shown, in_place=True)]) == 2048
    # Once the view has been read, the tensor goes.
    read = tensor(1024, shown)
    assert buffer_size([first, shown, read, tensor(1024, read)]) == 2048


def test_what_is_kept_stays_to_the_end() -> None:
    first = tensor(1024)
    first.kept = True
    second = tensor(1024, first, in_place=True)
    assert buffer_size([first, second, tensor(1024, second)]) == 3072


def test_the_smallest_hole_that_does_is_taken() -> None:
    big, gap, small, end = tensor(4096), tensor(128), tensor(1024), tensor(128)
    free = tensor(128, big, small)
    graph = [big, gap, small, end, free]
    taken = tensor(1024, gap, end)
    # It goes where the small one was, and what needs all of the big one's place has it.
    assert buffer_size([*graph, taken, tensor(4096, taken, gap, end)]) == 4096 + 128 + 1024 + 256


def test_holes_side_by_side_are_one() -> None:
    one, other, end = tensor(1024), tensor(1024), tensor(128)
    free = tensor(128, one, other)
    assert buffer_size([one, other, end, free, tensor(2048, end)]) == 2048 + 256


def test_inputs_are_placed_before_all_else_and_nothing_lies_elsewhere_twice() -> None:
    given = tensor(1024)
    assert buffer_size([tensor(128, given)], first=[given]) == 1024 + 128
    weights = Tensor(layout=(4096,), size=0)
    assert buffer_size([tensor(128, weights)]) == 128


def test_the_layouts_of_operands_are_compared_in_their_order() -> None:
    left, right = tensor(1024), tensor(1024)
    added = tensor(1024, left, right, in_place=True)
    assert buffer_size([left, right, added, tensor(1024, added)]) == 2048
