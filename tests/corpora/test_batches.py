"""Windows: pure functions of their arguments, targets one step ahead, every document token scored once."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bdh.corpora.tokens import (
    TokenCorpus,
    consecutive_windows,
    document_windows,
    fixed_windows,
    random_windows,
    spaced_starts,
)
from bdh.project.errors import CorpusError
from bdh.training.report import write_samples
from bdh.training.state import Training
from tests.support import corpus_cases
from tests.support.toys import Toy, settings

GOLDEN_STARTS = [210, 213, 749, 529]  # from this function itself, so that a resumed training never changes its data
TEXTS = ["one two three", "é", "a longer document, with more words in it than the others have", "x", "the last one"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> TokenCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "mine.txt").write_text("\n--\n".join(TEXTS + [f"filler {i}" for i in range(20)]), encoding="utf-8")
    split = {"by": "position", "validation_fraction": 0.2, "test_fraction": 0.2}
    return corpus_cases.build(folder, corpus_cases.text_section(folder / "mine.txt", separator="\n--\n", split=split))


def test_random_windows_shift_targets_by_one() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    inputs, targets = random_windows(tokens, 7, 33, seed=3, step=5)
    assert inputs.shape == targets.shape == (7, 33)
    assert inputs.dtype == targets.dtype == np.int64
    np.testing.assert_array_equal(targets, inputs + 1)


def test_random_windows_depend_on_seed_and_step_alone() -> None:
    tokens = np.arange(5000, dtype=np.uint16)
    first = random_windows(tokens, 8, 16, seed=1, step=2)[0]
    random_windows(tokens, 8, 16, seed=9, step=9)
    np.testing.assert_array_equal(first, random_windows(tokens, 8, 16, seed=1, step=2)[0])
    for seed, step in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(first, random_windows(tokens, 8, 16, seed=seed, step=step)[0])


def test_random_windows_of_some_rows_are_those_of_the_whole_batch() -> None:
    tokens = np.arange(10_000)
    whole = random_windows(tokens, 8, 16, seed=1, step=2)
    for one, other in zip(random_windows(tokens, 8, 16, seed=1, step=2, rows=slice(3, 6)), whole, strict=True):
        np.testing.assert_array_equal(one, other[3:6])


def test_random_windows_of_one_step_do_not_shift_into_the_next() -> None:
    tokens = np.arange(1 << 20)
    starts = [random_windows(tokens, 8, 2, seed=0, step=step)[0][:, 0] for step in range(50)]
    assert len(np.unique(np.concatenate(starts))) > 395


def test_random_windows_are_the_same_for_ever() -> None:
    starts = random_windows(np.arange(1000), 4, 8, seed=0, step=1)[0][:, 0]
    assert starts.tolist() == GOLDEN_STARTS


def test_random_windows_need_a_longer_split() -> None:
    assert random_windows(np.arange(9), 2, 8, seed=0, step=0)[1].max() == 8
    with pytest.raises(CorpusError, match="a window of 9 tokens needs a split of at least 10, this one has 9"):
        random_windows(np.arange(9), 2, 9, seed=0, step=0)


def test_random_windows_reach_both_ends_evenly() -> None:
    tokens = np.arange(12)
    starts = np.concatenate([random_windows(tokens, 64, 8, seed=0, step=s)[0][:, 0] for s in range(40)])
    counts = np.bincount(starts, minlength=4)
    assert len(counts) == 4
    assert counts.min() > 0.8 * 640


def read_on(lengths: list[int], streams: int, window: int, most: int, steps: int, **options) -> np.ndarray:
    """Starts of the windows (steps, streams) and whether they start anew, over tokens that are their own places."""
    ends = np.cumsum(lengths)
    segments = np.stack([ends - lengths, ends], 1)
    found = [
        consecutive_windows(np.arange(ends[-1]), streams, window, 5, step, most, segments=segments, **options)
        for step in range(1, steps + 1)
    ]
    for inputs, targets, _ in found:
        np.testing.assert_array_equal(targets, inputs + 1)
        homes = np.searchsorted(ends, np.concatenate([inputs, targets[:, -1:]], 1), side="right")
        assert (homes == homes[:, :1]).all(), "a window leaves its segment"
    return np.array([inputs[:, 0] for inputs, _, _ in found]), np.array([starts for _, _, starts in found])


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    streams=st.integers(1, 7),
    window=st.integers(1, 9),
    most=st.integers(2, 6),
)
@example(lengths=[40, 9, 90], streams=3, window=8, most=5)
def test_consecutive_windows_read_on_until_their_segment_or_their_turn_ends(lengths, streams, window, most) -> None:
    """A stream that skips, repeats or crosses a cut, or that keeps a state where it starts anew, would be found."""
    lengths = [*lengths, window + 1]
    at, starts = read_on(lengths, streams, window, most, steps=17)
    ends = np.cumsum(lengths)
    assert starts[0].all()
    for stream in range(streams):
        age = 0
        for step in range(1, 17):
            place = at[step - 1, stream]
            room = place + 2 * window < ends[np.searchsorted(ends, place, side="right")]
            age = 0 if starts[step - 1, stream] else age + 1
            planned = (step + stream * most // streams) % most == 0
            assert starts[step, stream] == (planned or not room)
            if not starts[step, stream]:
                assert at[step, stream] == place + window
            assert age < most
    drawn = np.array([random_windows(np.arange(ends[-1]), streams, window, 5, s, segments=_cut(ends))[0][:, 0]
                      for s in range(1, 18)])  # fmt: skip
    np.testing.assert_array_equal(at[starts], drawn[starts])


def _cut(ends: np.ndarray) -> np.ndarray:
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)


def test_consecutive_windows_of_some_rows_are_those_of_the_whole_batch() -> None:
    """Ranks share the streams of one batch."""
    whole = read_on([300, 200], 8, 16, 4, steps=9)
    some = read_on([300, 200], 8, 16, 4, steps=9, rows=slice(3, 6))
    for one, other in zip(some, whole, strict=True):
        np.testing.assert_array_equal(one, other[:, 3:6])


def test_consecutive_windows_spread_their_moves_over_the_steps() -> None:
    """All streams fresh at once would make every 4th batch another task."""
    _, starts = read_on([100_000], 8, 16, 4, steps=12)
    assert starts[1:].sum(1).tolist() == [2] * 11


@given(length=st.integers(2, 300), count=st.integers(1, 40), window=st.integers(1, 299))
def test_fixed_windows_are_apart_and_inside(length: int, count: int, window: int) -> None:
    tokens = np.arange(length)
    if window >= length:
        with pytest.raises(CorpusError, match="window"):
            fixed_windows(tokens, count, window)
        return
    inputs, targets = fixed_windows(tokens, count, window)
    assert 1 <= len(inputs) <= count
    assert len(inputs) == min(count, (length - 1) // window)
    np.testing.assert_array_equal(targets, inputs + 1)
    assert len(np.unique(inputs)) == inputs.size
    if len(inputs) > 1:
        assert targets.max() == length - 1


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), count=st.integers(1, 40), window=st.integers(1, 20)
)
def test_windows_stay_inside_their_segments(lengths: list[int], count: int, window: int) -> None:
    ends = np.cumsum(np.array(lengths) + 1)
    segments = np.stack([ends - lengths, ends], 1)
    tokens = np.arange(ends[-1])
    if max(lengths) <= window:
        with pytest.raises(CorpusError, match="window"):
            fixed_windows(tokens, count, window, segments)
        return
    fixed = fixed_windows(tokens, count, window, segments)
    for inputs, targets in (fixed, random_windows(tokens, 16, window, 0, 1, segments=segments)):
        owner = np.searchsorted(ends, inputs[:, 0], side="right")
        assert (inputs[:, 0] >= segments[owner, 0]).all()
        assert (targets[:, -1] < segments[owner, 1]).all()
    assert 1 <= len(fixed[0]) <= count
    assert len(np.unique(fixed[0])) == fixed[0].size


def test_spaced_starts_are_even_in_one_piece_and_never_cross_a_cut():
    tokens = np.arange(1000)
    for length in (1, 48, 1000):
        assert np.array_equal(spaced_starts(tokens, 3, length), np.linspace(0, 1000 - length, 3).astype(int))
    segments = np.array([[0, 30], [30, 100], [100, 140], [140, 1000]])
    starts = spaced_starts(tokens, 60, 48, segments)
    assert (starts[0], starts[-1]) == (30, 952)
    assert (np.diff(starts) > 0).all()
    assert all(any(first <= start and start + 48 <= last for first, last in segments) for start in starts)
    with pytest.raises(CorpusError, match="in one piece"):
        spaced_starts(tokens, 3, 861, segments)


def test_prompts_of_sample_texts_never_begin_before_and_end_after_a_cut(tmp_path) -> None:
    """Evenly spaced over the array, prompts joined the end of one block to the start of another."""
    text = "".join(f"line {number}: some words to learn from.\n" for number in range(200))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    split = {"by": "blocks", "validation_fraction": 0.25, "test_fraction": 0.2, "block_bytes": 64}
    blocks = corpus_cases.build(tmp_path, corpus_cases.text_section(tmp_path / "t.txt", split=split))
    prompts = [sample["prompt"] for sample in write_samples(Toy(), blocks, 0)]
    assert len({*prompts}) == 3
    assert all(len(prompt) == 48 and prompt in text for prompt in prompts)


def test_training_and_validation_never_read_over_a_cut_between_blocks(tmp_path) -> None:
    text = "".join(f"{number:05d}," for number in range(2000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    split = {"by": "blocks", "validation_fraction": 0.25, "test_fraction": 0.2, "block_bytes": 64}
    blocks = corpus_cases.build(tmp_path, corpus_cases.text_section(tmp_path / "t.txt", split=split))
    training = Training(
        Toy(), blocks, settings(validation_windows=999), seed=0, device=torch.device("cpu"), precision=torch.float32
    )
    read = [window for step in range(1, 60) for window in training.batch(step)[0]]
    assert all(blocks.decode(window) in text for window in (*read, *training.validation.inputs_ST))


def test_random_windows_reach_every_place_of_every_segment() -> None:
    segments = np.array([[0, 9], [10, 13], [20, 30]])
    starts = np.concatenate([random_windows(np.arange(30), 64, 8, 0, s, segments=segments)[0][:, 0] for s in range(9)])
    assert np.unique(starts).tolist() == [0, 20, 21]


def test_fixed_windows_of_a_whole_split_score_everything() -> None:
    _, targets = fixed_windows(np.arange(65), 8, 8)
    np.testing.assert_array_equal(targets.ravel(), np.arange(1, 65))


@pytest.mark.parametrize("window", [1, 3, 7, 500])
def test_document_windows_score_every_token_but_the_first_once(corpus: TokenCorpus, window: int) -> None:
    tokens, documents = corpus.tokens("train"), corpus.documents.query("split == 'train'")
    scored: dict[int, list[int]] = {}
    read: dict[int, list[int]] = {}
    firsts = []
    for row, inputs, targets, first in document_windows(corpus, "train", window, 10**9):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] <= window
        scored.setdefault(row, []).extend(targets[0].tolist())
        read.setdefault(row, []).extend(inputs[0].tolist())
        firsts += [row] * first
    long_enough = [row for row in documents.index if documents.token_end[row] - documents.token_start[row] > 1]
    assert firsts == long_enough == list(scored)
    for row in long_enough:
        document = tokens[documents.token_start[row] : documents.token_end[row]].tolist()
        assert scored[row] == document[1:]
        assert read[row] == document[:-1]
        assert corpus.end_of_text not in scored[row]


@pytest.mark.parametrize("limit", [1, 10, 11, 57])
def test_document_windows_stop_at_the_limit(corpus: TokenCorpus, limit: int) -> None:
    whole = np.concatenate([t[0] for _, _, t, _ in document_windows(corpus, "train", 4, 10**9)])
    some = np.concatenate([t[0] for _, _, t, _ in document_windows(corpus, "train", 4, limit)])
    np.testing.assert_array_equal(some, whole[:limit])


def test_document_windows_of_an_unknown_split_are_refused(corpus: TokenCorpus) -> None:
    with pytest.raises(CorpusError, match="train, validation, test"):
        next(document_windows(corpus, "dev", 4, 10))
