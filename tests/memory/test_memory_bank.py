"""Memory bank at size: bounds, exact search in groups, the coreset's rounds, and patches that exceed the memory."""

import copy
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_tree

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.memory import coreset, memory_bank, patch_store
from adlib.memory.coreset import covering_radius, k_centre_greedy, k_centre_greedy_in_shards
from adlib.memory.distance_bounds import Outline, fit_outline, fit_search_outline, rounding_of_rest
from adlib.memory.memory_bank import BankSearch, in_threads
from adlib.memory.patch_store import PatchStore, parse_bytes
from adlib.memory.sieve import FloatSieve, IntegerSieve, best_sieve
from adlib.memory.unfinished import Unfinished
from adlib.samples import select


def clustered(count: int, dimensions: int, seed: int = 0, inner: int = 6, precision=torch.float32) -> torch.Tensor:
    """Features near an inner-dimensional surface, around 30 centres: as those of images are."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(inner, dimensions, generator=torch.Generator().manual_seed(99))
    centres = 4 * torch.randn(30, inner, generator=torch.Generator().manual_seed(98))
    place = centres[torch.randint(0, 30, (count,), generator=generator)]
    inside = place + torch.randn(count, inner, generator=generator)
    return (inside @ basis + 0.3 * torch.randn(count, dimensions, generator=generator)).to(precision)


def test_outlines_are_never_farther_apart_than_features():
    features = clustered(400, 64, precision=torch.float64)
    outline = fit_outline(features, energy=0.9)
    assert 1 <= outline.axes.shape[1] <= 32
    outlines = outline(features)
    outlined, whole = ((some[:, None] - some).norm(dim=2) for some in (outlines, features))
    assert (outlined <= whole + 1e-9).all()
    axes = fit_search_outline(features[:300].float(), features[300:].float())[0].axes
    assert 6 <= axes.shape[1] <= 32  # as many as there is to tell, and not the noise
    torch.testing.assert_close(axes.T @ axes, torch.eye(axes.shape[1]), rtol=0, atol=1e-5)
    deviation = (features.float() @ axes).std(0)
    assert deviation.max() < 4 * deviation.min()  # as rounding to equal steps likes; of principal axes, 100 times
    far = whole > whole.median()
    assert (outlined[far] / whole[far]).mean() > 0.9  # and near to it, or they would spare nothing


def test_how_wrong_a_small_rest_may_be_is_known():
    """The length of what axes leave is that of a difference of squares: float32 keeps little of a small one."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64))[0]
    shares = torch.logspace(-6, 0, 2000, dtype=torch.float64)[:, None]
    parts = torch.randn(2000, 64, generator=generator, dtype=torch.float64)
    features = torch.cat([parts[:, :40], shares * parts[:, 40:]], 1) @ axes.T
    outline = Outline(torch.zeros(64), axes[:, :40].float().contiguous())
    outlines = outline(features.float())
    wrong = (outlines[:, -1] - (shares * parts[:, 40:]).norm(dim=1)).abs()
    assert (wrong <= rounding_of_rest(outlines)).all()
    assert (wrong > 1e-4 * features.norm(dim=1)).any()  # which is more than all other rounding
    assert (rounding_of_rest(outlines) <= 1.1e-3 * features.norm(dim=1)).all()
    assert (rounding_of_rest(torch.zeros(2, 5)) == 0).all()


needs_integers = pytest.mark.skipif(best_sieve() is FloatSieve, reason="integers are not multiplied faster here")
SIEVES = [FloatSieve, pytest.param(IntegerSieve, marks=needs_integers)]


@pytest.mark.parametrize("sieve", SIEVES)
@pytest.mark.parametrize("neighbours", [1, 5])
@pytest.mark.parametrize("kind", ["clustered", "noise"])
def test_search_in_groups_is_exact(kind, neighbours, sieve, monkeypatch):
    monkeypatch.setattr(
        memory_bank, "fit_search_outline", lambda *a: (fit_search_outline(*a)[0], sieve is IntegerSieve)
    )
    generator = torch.Generator().manual_seed(5)
    draw = clustered if kind == "clustered" else lambda count, size, seed: torch.randn(count, size, generator=generator)
    bank, queries = draw(12000, 48, seed=1) + 3, draw(300, 48, seed=2) + 3
    bank[17] = bank[4000]  # equal members
    queries[:20] = bank[:20]  # and queries that are in the bank
    queries[20:30] += 30  # and some that are far from everything
    search = BankSearch(bank)
    assert search.grouped
    search.nearest(queries[100:], neighbours)  # by which its steps are chosen, without those that are far
    exact = torch.cdist(queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    exact = exact.topk(neighbours, 1, largest=False).values
    found = search.nearest(queries, neighbours)
    assert len(search.sizes) > 50
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([search.nearest(part, neighbours) for part in queries.split(70)]), found)
    broken = torch.cat([queries, queries.new_full((2, 48), torch.nan)])
    assert torch.equal(search.nearest(broken, neighbours)[:-2], found)  # and the last two harm no other
    assert search.nearest(broken, neighbours)[-2:].isnan().all()
    assert torch.equal(copy.deepcopy(search).nearest(queries, neighbours), found)


@pytest.mark.parametrize("neighbours", [1, 5])
def test_planes_between_centres_spare_groups_that_balls_do_not(neighbours, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(8, 48, generator=generator)
    bank, queries = (torch.randn(count, 8, generator=generator) @ basis for count in (8000, 300))
    search, opened = BankSearch(bank), []
    passed = search._passed
    monkeypatch.setattr(
        search, "_passed", lambda rows, group, *others: opened.append(len(group)) or passed(rows, group, *others)
    )
    search.nearest(queries, neighbours)
    found = search.nearest(queries, neighbours)
    search.nearer += torch.inf  # no plane tells anything
    assert torch.equal(search.nearest(queries, neighbours), found)
    assert opened[0] == opened[1] < 0.6 * opened[2]


@pytest.mark.parametrize("neighbours", [1, 5])
def test_endless_queries_harm_no_other(neighbours):
    bank, queries = clustered(5000, 48, seed=1), clustered(40, 48, seed=2)
    search = BankSearch(bank)
    found = search.nearest(queries, neighbours)
    for value in (torch.inf, -torch.inf, 3e38):
        broken = torch.cat([queries, queries.new_full((2, 48), value)])
        assert torch.equal(search.nearest(broken, neighbours)[:-2], found)


@pytest.mark.parametrize("sieve", SIEVES)
def test_a_sieve_lets_through_what_is_near_and_little_else(sieve):
    turn = torch.linalg.qr(torch.randn(55, 55, generator=torch.Generator().manual_seed(0)))[0]  # as outlines are
    members, queries = clustered(500, 55, seed=1) @ turn, clustered(400, 55, seed=2) @ turn
    sizes = torch.tensor([100, 1, 250, 149])
    sifted = sieve(members, sizes, queries)
    queries[:20] *= 1000  # beyond all steps
    squared = torch.cdist(queries.double(), members.double()).square()
    limits = squared.kthvalue(5, 1).values.float()
    limits += memory_bank.ROUNDING * (queries.square().sum(1) + limits)
    rows, start, slope = sifted.rows(queries)
    base, beyond = sifted.set_limits(rows, start + slope * limits)
    everyone = torch.arange(len(queries))
    hits = torch.cat([sifted.hits(rows, everyone, g, base)[:, :n] for g, n in enumerate(sizes.tolist())], 1) > 0
    near = squared <= limits[:, None]
    assert hits[near & ~beyond[:, None]].all()
    assert not beyond[20:].any()
    assert hits[20:].sum() < 2 * near[20:].sum()
    assert not any(sifted.hits(rows, everyone[20:], g, base)[:, n:].any() for g, n in enumerate(sizes.tolist()))
    likest = torch.cat([sifted.likeness(rows, everyone, g)[:, :n] for g, n in enumerate(sizes.tolist())], 1).argmax(1)
    reached = squared.gather(1, likest[:, None])[:, 0]
    assert (reached <= limits)[20:].float().mean() > 0.95  # the likeliest is among the five nearest


def test_integers_are_not_taken_where_they_saturate(monkeypatch):
    """As x86 processors without instructions for such products do: in sums of two products, at 16 bits."""
    real = torch.ops.onednn.qlinear_pointwise
    if best_sieve() is FloatSieve:
        pytest.skip("integers are not multiplied faster here")
    operations = SimpleNamespace(
        qlinear_prepack=torch.ops.onednn.qlinear_prepack,
        qlinear_pointwise=lambda *a: real(*a).clamp(max=2**20) if a[9] == torch.float32 else real(*a),
    )
    monkeypatch.setattr(torch.ops, "onednn", operations)
    assert best_sieve.__wrapped__() is FloatSieve
    monkeypatch.setattr(torch.ops, "onednn", SimpleNamespace())  # as elsewhere
    assert best_sieve.__wrapped__() is FloatSieve


def test_outline_is_not_chosen_by_the_edge_of_the_images_alone():
    """On a grid of 32 x 32, every 32nd patch is of the first column, which may be nothing but background."""

    def chosen(queries):
        return fit_search_outline(bank, queries)[0].axes.shape[1]

    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(4000, 64, generator=generator), torch.randn(8192, 64, generator=generator)
    first = chosen(queries)
    queries[::32] = bank[:256]  # the nearest is at hand, which asks for few axes
    assert chosen(queries[::32]) < first
    assert chosen(queries) == first


def test_threads_share_the_queries_and_change_nothing():
    bank, queries = clustered(5000, 48, seed=1), clustered(6500, 48, seed=2)
    search, threads = BankSearch(bank), torch.get_num_threads()
    search.nearest(queries[:1])
    alone = search._search(queries, 1)
    try:
        torch.set_num_threads(3)
        seen = []
        in_threads(lambda part: seen.append((len(part), torch.get_num_threads())) or part, queries)
        assert sorted(seen) == [(2166, 1), (2167, 1), (2167, 1)]
        assert torch.equal(search.nearest(queries), alone)
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda part: 1 // 0, queries)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_search_divides_large_groups_and_takes_few_queries_at_a_time(monkeypatch):
    bank, queries = torch.cat([clustered(500, 48, seed=1), 0.01 * torch.randn(4500, 48)]), clustered(300, 48, seed=2)
    search = BankSearch(bank)
    found = search.nearest(queries, 3)
    assert search.sizes.max() <= search.width < 4500 / 16
    assert search.sizes.sum() == 5000
    exact = torch.cdist(queries.double(), bank.double()).square().topk(3, 1, largest=False).values
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(memory_bank, "TABLE", 1)
    assert torch.equal(search.nearest(queries, 3), found)
    assert search.nearest(queries, search.width + 1).shape == (300, search.width + 1)  # more than a group has


def test_search_copes_with_equal_features_and_small_banks():
    assert not BankSearch(torch.rand(100, 40)).grouped
    equal = BankSearch(torch.ones(5000, 40))
    assert equal.nearest(torch.full((3, 40), 3.0), 2).tolist() == [[160.0, 160.0]] * 3


def test_small_distances_between_long_features_are_not_lost_in_rounding():
    bank = 100 + torch.rand(300, 40, generator=torch.Generator().manual_seed(0))
    queries = bank[:20] + 1e-3
    expected = (queries.double() - bank[:20].double()).square().sum(1)  # of about 4e-5, where lengths are 4e5
    for found in (memory_bank.nearest(queries, bank), memory_bank.nearest(queries, bank, neighbours=3)):
        torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("starts", [0, 10])
def test_coreset_with_outlines_follows_the_plain_loop(starts):
    features = clustered(20000, 48, precision=torch.float64)
    generator = torch.Generator().manual_seed(7)
    rows = torch.randperm(len(features), generator=generator)[: max(1, starts)]
    distance, expected = torch.cdist(features, features[rows]).mean(1), [] if starts else rows.tolist()
    while len(expected) < 700:
        expected.append(int(distance.argmax()))
        distance = torch.minimum(distance, (features - features[expected[-1]]).norm(dim=1))
    assert k_centre_greedy(features, 700, seed=7, starts=starts).tolist() == expected
    single = k_centre_greedy(features.float(), 700, seed=7, starts=starts)
    assert covering_radius(features, single) == pytest.approx(covering_radius(features, torch.tensor(expected)), 1e-6)


def test_coreset_in_shards_covers_nearly_as_well():
    features = clustered(6000, 16)
    exact, sharded = k_centre_greedy(features, 300), k_centre_greedy_in_shards(features, 300, shard_rows=1500)
    assert len(set(sharded.tolist())) == 300
    assert covering_radius(features, sharded) <= 1.3 * covering_radius(features, exact)
    assert torch.equal(k_centre_greedy_in_shards(features, 300, shard_rows=6000), exact)


def test_covering_radius_by_hand():
    features = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    assert covering_radius(features, torch.tensor([0, 3])) == 4.0


def test_memory_is_read_with_its_unit():
    assert [parse_bytes(text) for text in ("8GB", "512 MiB", "100")] == [8 * 10**9, 512 * 2**20, 100]
    with pytest.raises(InputError, match="memory='much' is not a size: write it as '8GB'"):
        create_model("patchcore", memory="much")
    assert parse_bytes("1.5KB") == parse_bytes("1500.") == parse_bytes(".0015MB") == 1500
    for wrong in ("1.2.3GB", ".", "9" * 400, "", "GB"):
        with pytest.raises(InputError, match=r"--cache-limit='.*' is not a size: write it as '8GB'"):
            parse_bytes(wrong, "--cache-limit")


@pytest.mark.parametrize(
    ("limit", "on_disk", "shards"), [(None, False, 1), (10**6, False, 1), (40_000, True, 1), (10_000, True, 3)]
)
def test_patches_beyond_the_memory_lie_on_disk(limit, on_disk, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    patches = torch.rand(1000, 32, generator=torch.Generator().manual_seed(0))
    store = PatchStore(1000, 32, 4, limit, lambda some: some[:, :4])
    for part in patches.split(300):
        store.add(part)
    assert (store.on_disk, -(-1000 // store.shard_rows)) == (on_disk, shards)
    rows = torch.tensor([999, 3, 500])
    np.testing.assert_allclose(store.take(rows), patches[rows], rtol=0, atol=3e-4 if on_disk else 0)
    np.testing.assert_array_equal(store.projections, patches[:, :4])
    assert list(tmp_path.iterdir()) == []  # a file without a name, of which a kill leaves nothing
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_patchcore_within_a_memory_limit_is_nearly_the_same(tmp_path):
    samples = load_samples("folder", make_tree(tmp_path, size=64))
    train, test = (ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "coreset_ratio": 0.5, "projection_size": 16}
    scores = {}
    for memory in (None, "100KB", "20KB"):
        model = create_model("patchcore", memory=memory, **settings).fit(train, device="cpu", progress=False)
        scores[memory] = model.predict(test, device="cpu", progress=False).scores
        assert any("Coreset chosen in" in warning for warning in model.warnings) == (memory == "20KB")
    np.testing.assert_allclose(scores["100KB"], scores[None], rtol=0.01)
    assert np.corrcoef(scores["20KB"], scores[None])[0, 1] > 0.9


@pytest.mark.parametrize("memory", [None, "100KB", "20KB"])
@pytest.mark.parametrize("killed_in", ["patches", "coreset"])
def test_a_killed_patchcore_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch, memory, killed_in):
    samples = load_samples("folder", make_tree(tmp_path / "data", size=64, train=20))
    train = ImageSet(select(samples, split="train"), size=64)
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "coreset_ratio": 0.5, "projection_size": 16}
    settings |= {"memory": memory}
    monkeypatch.setattr(coreset, "CANDIDATES", 8)  # many rounds of few choices
    whole = create_model("patchcore", **settings).fit(train, device="cpu", progress=False)

    broken, file, left = create_model("patchcore", **settings), tmp_path / "run" / "checkpoint", [2]
    broken.checkpoint_interval = 0.0
    room, name = (PatchStore, "add") if killed_in == "patches" else (coreset, "_round")
    real, seen = getattr(room, name), []

    def killed(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(room, name, killed)
        with pytest.raises(KeyboardInterrupt):
            broken.fit(train, device="cpu", progress=False, checkpoint=file)
    monkeypatch.setattr(PatchStore, "add", lambda *a, add=PatchStore.add: (seen.append(a[2]), add(*a)))
    again = create_model("patchcore", **settings).fit(train, device="cpu", progress=False, checkpoint=file)
    embedded = {"patches": 4, "coreset": 0}[killed_in] if memory else 20  # what was in memory alone is lost
    assert sum(seen) == embedded
    assert torch.equal(again.memory_bank_, whole.memory_bank_)
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("memory", [None, "100KB"])
def test_a_patchcore_whose_checkpoint_was_kept_chooses_nothing_anew(tmp_path, monkeypatch, memory):
    samples = load_samples("folder", make_tree(tmp_path / "data", size=64, train=20))
    train, file = ImageSet(select(samples, split="train"), size=64), tmp_path / "run" / "checkpoint"
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "coreset_ratio": 0.5, "projection_size": 16}
    settings |= {"memory": memory}
    given = {"device": "cpu", "progress": False, "checkpoint": file}
    first = create_model("patchcore", **settings).fit(train, **given, keep_checkpoint=True)
    seen, rounds = [], []
    monkeypatch.setattr(PatchStore, "add", lambda *a, add=PatchStore.add: (seen.append(a[2]), add(*a)))
    monkeypatch.setattr(coreset, "_round", lambda *a, real=coreset._round: (rounds.append(a), real(*a))[1])
    again = create_model("patchcore", **settings).fit(train, **given)
    assert not seen and not rounds
    assert again.shards_ == first.shards_
    assert torch.equal(again.memory_bank_, first.memory_bank_)
    assert list(file.parent.iterdir()) == []


def test_an_unfinished_choice_of_other_features_is_refused(tmp_path):
    features, file = clustered(300, 16), tmp_path / "fit"
    k_centre_greedy(features, 20, unfinished=Unfinished(file, {"seed": 1}))
    with pytest.raises(InputError, match=r"fit\.stage-coreset is a checkpoint of another training: rows=300, now 200"):
        k_centre_greedy(features[:200], 20, unfinished=Unfinished(file, {"seed": 1}))
    (tmp_path / "fit.stage-coreset").write_bytes(b"half of it")
    with pytest.raises(InputError, match=r"fit\.stage-coreset is not a checkpoint of adlib"):
        k_centre_greedy(features, 20, unfinished=Unfinished(file, {"seed": 1}))


def test_patches_that_the_disk_cannot_hold_are_refused_before_any_is_made(monkeypatch):
    monkeypatch.setattr(patch_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(InputError, match=r"take 2\.0 GB on disk, and .* has 1\.0: make room there"):
        PatchStore(10**6, 1000, 4, 10**6, None)
