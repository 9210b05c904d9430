"""What several processes read of a batch is, together, the batch of one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kinema.data.loading import EpochOrder
from kinema.data.parts import Part


@given(num_clips=st.integers(1, 30), batch_size=st.integers(1, 9), num_parts=st.integers(1, 5), seed=st.integers(0, 9))
def test_the_parts_of_all_processes_are_the_batches_of_one(
    num_clips: int, batch_size: int, num_parts: int, seed: int
) -> None:
    def order() -> EpochOrder:
        found = EpochOrder(num_clips, batch_size=batch_size, seed=seed)
        found.set_position(epoch=3, first_batch=0)
        return found

    parts = [Part(order(), rank=rank, num_parts=num_parts) for rank in range(num_parts)]
    assert {len(part) for part in parts} == {len(order())}
    for whole, *of_batch in zip(order(), *parts, strict=True):
        assert sorted(item for part in of_batch for item in part) == sorted(whole)
        sizes = [len(part) for part in of_batch]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= parts[0].batch_size


def test_a_part_begins_where_its_order_does() -> None:
    order = EpochOrder(10, batch_size=4, seed=None)
    order.set_position(epoch=5, first_batch=1)
    assert list(Part(order, rank=1, num_parts=2)) == [[(5, 5), (7, 5)], [(9, 5)]]
