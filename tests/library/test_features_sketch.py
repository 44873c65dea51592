"""What is kept does not depend on the order in which it came, nor on how it was divided."""

import planted
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import same

from saelab.features.collect import CollectConfig
from saelab.features.entries import Entries
from saelab.features.examples import Grid
from saelab.features.kept import Kept
from saelab.features.sketch import Sketch


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=60), st.integers(1, 60))
def test_kept_items_do_not_depend_on_how_they_were_offered(pairs, cut):
    feature, key = (torch.tensor([pair[i] for pair in pairs]) for i in range(2))
    item = torch.arange(len(pairs))

    def offered(*parts):
        kept = Kept(4, 3, 1)
        for part in parts:
            kept.offer(
                feature[part], key[part].int(), item[part], key[part].float(), lambda some, of=part: item[of][some, None].to(torch.int8)
            )
            kept.settle()
        return kept

    expected = [sorted((-k, i) for i, (f, k) in enumerate(pairs) if f == own)[:3] for own in range(4)]
    halves = [offered(item[::2]), offered(item[1::2])]
    halves[1].merge(halves[0])
    halves[1].settle()
    for kept in (offered(item), offered(item[cut:], item[:cut]), halves[1]):
        for own, best in enumerate(expected):
            assert kept.item[own].tolist()[: len(best)] == [i for _, i in best]
            assert kept.key[own].tolist() == [-k for k, _ in best] + [-1] * (3 - len(best))
            assert kept.levels[own, : len(best), 0].tolist() == [i for _, i in best]


CODES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 3.0])), min_size=1, max_size=80
)


def sketched(codes: dict[tuple[int, int], float], chunks: list[list[int]], num_chunks: int) -> Sketch:
    """A sketch of some windows of the planted corpus, chunk after chunk, with codes given by (row, feature)."""
    config = CollectConfig(top=3, explain=2, select=2, score=2, tokens=3, width=4, before=6, pool=30)
    sketch = Sketch(Grid(planted.CORPUS, config.width, config.before), config, 4, num_chunks)
    for rows in chunks:
        value = torch.zeros(len(rows), 4)
        for place, row in enumerate(rows):
            for feature in range(4):
                value[place, feature] = codes.get((row, feature), 0.0)
        sketch.add(torch.arange(4).expand(len(rows), 4), value, torch.tensor(rows) * 64 + 7)
    return sketch


@settings(max_examples=40, deadline=None)
@given(CODES, st.permutations(range(31)), st.integers(1, 30), st.integers(1, 30))
def test_sketches_merge_in_any_order_and_grouping(entries, rows, first, second):
    codes = {(row, feature): value for row, feature, value in entries}
    low, high = min(first, second), max(first, second)
    one, two, three = (sketched(codes, [part] if part else [], 4) for part in (rows[:low], rows[low:high], rows[high:]))
    four, five, six = (sketched(codes, [part] if part else [], 4) for part in (rows[:low], rows[low:high], rows[high:]))
    one.merge(two)
    one.merge(three)
    five.merge(six)
    five.merge(four)
    whole = sketched(codes, [list(rows)], 4).collected()
    same(one.collected(), whole)
    same(five.collected(), whole)


def test_left_context_never_reaches_into_another_window():
    grid = Grid(planted.CORPUS, 4, 6)
    place = torch.arange(64 * 3)
    entries = Entries(grid, torch.zeros(len(place), 1, dtype=torch.int64), torch.ones(len(place), 1), place)
    shown = (entries.pairs.levels(torch.arange(len(entries.pairs.feature))) != 0).sum(1)
    assert shown.view(3, 16)[:, :3].tolist() == [[4, 8, 10]] * 3
    assert (shown.view(3, 16)[:, 2:] == 10).all()
