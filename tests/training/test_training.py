"""The training loop: order of images, means of losses, schedules, divergence, and checkpoints that resume exactly."""

import json
import warnings
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import make_tree
from pretended_cuda import gpu
from torch import nn
from torch.utils.data import Dataset

from adlib import ImageSet, InputError, load_samples
from adlib.detector import Detector, joined_state, load_joined_state
from adlib.memory.unfinished import save_progress
from adlib.samples import select
from adlib.synthesis import SyntheticImages
from adlib.training.loop import TrainingDiverged, train


class Rebuilder(Detector):
    """The smallest method that trains: a convolution, a norm and dropout rebuild the image from itself."""

    name = "rebuilder"
    checkpoint_interval = 0.0  # after every step

    def __init__(self, epochs: int | None = 3, batch_size: int = 2, learning_rate: float = 0.01, **settings):
        self.epochs, self.batch_size, self.learning_rate, self.settings = epochs, batch_size, learning_rate, settings
        self.seen, self.fail_at = [], None

    @property
    def parameters(self):
        return {"epochs": self.epochs, "learning_rate": self.learning_rate}

    def fit_images(self, images, val, progress):
        self.net_ = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.net_.to(self.device_)
        self.optimiser_ = torch.optim.Adam(self.net_.parameters(), self.learning_rate)
        self.schedule_ = torch.optim.lr_scheduler.StepLR(self.optimiser_, 2, 0.5)
        settings = {"epochs": self.epochs, "batch_size": self.batch_size, "drop_last": True}
        settings |= {"schedules": [self.schedule_]}
        settings |= {"progress": False} | self.settings
        self.history_ = train(self, images, self.step, {"net": self.net_}, self.optimiser_, **settings)

    def step(self, batch):
        batch = batch["image"] if isinstance(batch, dict) else batch
        if self.fail_at == len(self.seen):
            raise KeyboardInterrupt
        self.seen.append(batch.mean((1, 2, 3)).tolist())
        return (self.net_(batch) - batch).square().mean()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    samples = load_samples(
        "folder", make_tree(tmp_path_factory.mktemp("tree"), train=7, normal=1, anomalous=1, size=16)
    )
    return ImageSet(select(samples, split="train"), size=16)


def weights(model: Detector) -> list[torch.Tensor]:
    return list(model.net_.state_dict().values())


def brighten(image, rng):
    changed = (image + rng.uniform(0.1, 0.3)).astype("float32")
    return changed, (changed != image).any(2)


@pytest.mark.parametrize("fail_at", [2, 4, 5, 8])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule_every": "step", "clip_norm": 0.1, "accumulate": 2},
        {"epochs": None, "steps": 11, "drop_last": False},
        {"precision": "bfloat16"},
    ],
    ids=["plain", "accumulated", "steps", "bfloat16"],
)
def test_resumed_training_ends_with_the_same_weights(images, tmp_path, settings, fail_at):
    whole = Rebuilder(**settings).fit(images, device="cpu")
    file = tmp_path / "training.ckpt"
    broken = Rebuilder(**settings)
    broken.fail_at = fail_at
    with pytest.raises(KeyboardInterrupt):
        broken.fit(images, device="cpu", checkpoint=file)
    torch.rand(5)  # a new process has other random numbers
    resumed = Rebuilder(**settings).fit(images, device="cpu", checkpoint=file)
    assert len(resumed.seen) < len(whole.seen)
    assert whole.seen == broken.seen[: len(whole.seen) - len(resumed.seen)] + resumed.seen
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.history_ == resumed.history_
    assert list(tmp_path.iterdir()) == []


def test_a_kept_checkpoint_spares_whoever_is_killed_while_scoring_the_training(images, tmp_path):
    file = tmp_path / "training.ckpt"
    first = Rebuilder().fit(images, device="cpu", checkpoint=file, keep_checkpoint=True)
    assert [left.name for left in tmp_path.iterdir()] == ["training.ckpt"]
    again = Rebuilder().fit(images, device="cpu", checkpoint=file)
    assert first.seen and not again.seen
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_resumed_training_with_drawn_anomalies_and_chosen_epoch(images, tmp_path):
    class Chooser(Rebuilder):
        def fit_images(self, images, val, progress):
            values = iter([3.0, 1.0, 2.0, 1.5][getattr(self, "skip", 0) :])
            self.settings = {"validate": lambda: next(values)}
            super().fit_images(SyntheticImages(images, brighten, seed=self.seed_), val, progress)

    whole = Chooser(epochs=4).fit(images, device="cpu")
    broken = Chooser(epochs=4)
    broken.fail_at = 7  # in the third epoch
    with pytest.raises(KeyboardInterrupt):
        broken.fit(images, device="cpu", checkpoint=tmp_path / "c")
    resumed = Chooser(epochs=4)
    resumed.skip = 2
    resumed.fit(images, device="cpu", checkpoint=tmp_path / "c")
    assert len({tuple(map(tuple, whole.seen[start : start + 3])) for start in (0, 3, 6, 9)}) == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.choices == resumed.choices == {"epoch": 2}
    # The second epoch had the lowest value: its weights are those of two epochs of training.
    two = Chooser(epochs=2).fit(images, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(two), strict=True))


def test_each_stage_has_its_own_checkpoint(images, tmp_path):
    class Twice(Rebuilder):
        def fit_images(self, images, val, progress):
            self.settings = {"stage": "first"}
            super().fit_images(images, val, progress)
            first = self.net_
            self.settings = {"stage": "second"}
            super().fit_images(images, val, progress)
            self.net_ = nn.Sequential(first, self.net_)

    whole = Twice(epochs=2).fit(images, device="cpu")
    broken = Twice(epochs=2)
    broken.fail_at = 8  # in the second stage
    with pytest.raises(KeyboardInterrupt):
        broken.fit(images, device="cpu", checkpoint=tmp_path / "c")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.stage-first", "c.stage-second"]
    resumed = Twice(epochs=2).fit(images, device="cpu", checkpoint=tmp_path / "c")
    assert len(resumed.seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_training_is_refused(images, tmp_path):
    broken = Rebuilder()
    broken.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        broken.fit(images, device="cpu", checkpoint=tmp_path / "c")
    with pytest.raises(InputError, match=r"of another training: learning_rate=0.01, now 0.5. Delete it"):
        Rebuilder(learning_rate=0.5).fit(images, device="cpu", checkpoint=tmp_path / "c")
    with pytest.raises(InputError, match="seed=0, now 1"):
        Rebuilder().fit(images, device="cpu", seed=1, checkpoint=tmp_path / "c")
    fewer = ImageSet(images.samples.iloc[:6], **images.settings)
    with pytest.raises(InputError, match="images='"):
        Rebuilder().fit(fewer, device="cpu", checkpoint=tmp_path / "c")
    (tmp_path / "c").write_bytes(b"something else")
    with pytest.raises(InputError, match="is not a checkpoint of adlib"):
        Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c")


def of_code(monkeypatch, commit, dirty=False, **more):
    found = {"version": "0.1.0", "commit": commit, "dirty": dirty, **more}
    monkeypatch.setattr("adlib.training.checkpoint.code", lambda: found)


def test_who_resumes_what_other_code_began_is_told(images, tmp_path, monkeypatch):
    of_code(monkeypatch, "a")
    whole = Rebuilder().fit(images, device="cpu")
    interrupted(images, tmp_path / "c", "cpu")
    of_code(monkeypatch, "b", dirty=True)
    said = r"from other code: the checkpoint is of adlib 0.1.0 at a, .*, cpu; .* at b with uncommitted changes"
    with pytest.warns(UserWarning, match=said):
        other = Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c", keep_checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(other), strict=True))
    assert [one["commit"] for one in other.resumed_from] == ["a"]
    with pytest.warns(UserWarning, match=said):  # b has noted since, and its part is not all
        again = Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c")
    assert again.resumed_from == other.resumed_from and len(again.resumed_notes) == 1
    assert again.fit(images, device="cpu").resumed_notes == []


def test_who_resumes_what_other_uncommitted_changes_began_is_told(images, tmp_path, monkeypatch):
    of_code(monkeypatch, "a", dirty=True, changes="one")
    interrupted(images, tmp_path / "c", "cpu")
    of_code(monkeypatch, "a", dirty=True, changes="two")
    with pytest.warns(UserWarning, match=r"from other code: .* changes \(one\), .* changes \(two\),"):
        Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c")


def test_who_resumes_what_the_same_code_began_is_told_nothing(images, tmp_path, monkeypatch):
    interrupted(images, tmp_path / "c", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c", keep_checkpoint=True)
    assert resumed.resumed_from == []
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.warns(UserWarning, match="from other torch: .* torch 1.0, cpu.$"):
        Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is always full")
def test_a_full_disk_takes_the_checkpoint_and_not_the_training(images, tmp_path):
    expected = Rebuilder().fit(images, device="cpu").net_.state_dict()
    interrupted(images, tmp_path / "c", "cpu")
    before = (tmp_path / "c").read_bytes()
    (tmp_path / "c.partial").symlink_to("/dev/full")
    with pytest.warns(UserWarning, match=r"c cannot be written \(No space left on device\)"):
        save_progress({"x": torch.zeros(9)}, tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before and not (tmp_path / "c.partial").exists()
    (tmp_path / "c.partial").symlink_to("/dev/full")  # once more, of the first step
    with pytest.warns(UserWarning, match="No space left on device"):
        resumed = Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c")
    assert all(value.equal(expected[name]) for name, value in resumed.net_.state_dict().items())


def test_a_checkpoint_that_cannot_be_written_for_another_reason_is_an_error(tmp_path):
    (tmp_path / "c.partial").mkdir()
    with pytest.raises(IsADirectoryError):
        save_progress({"x": torch.zeros(9)}, tmp_path / "c")


def test_what_does_not_say_who_began_it_is_unknown(images, tmp_path):
    interrupted(images, tmp_path / "c", "cpu")
    noted = torch.load(tmp_path / "c", weights_only=True)
    torch.save({name: value for name, value in noted.items() if name != "makers"}, tmp_path / "c")
    with pytest.warns(UserWarning, match="from unknown code"):
        assert Rebuilder().fit(images, device="cpu", checkpoint=tmp_path / "c").resumed_from == [{}]


class FromFiles(Rebuilder):
    """With a folder of textures, a file of its own, and weights that are looked up by their name."""

    def __init__(self, folder, **settings):
        super().__init__(**settings)
        self.folder = folder

    @property
    def parameters(self):
        files = {"textures": f"{self.folder}/textures", "table": f"{self.folder}/table.safetensors"}
        return super().parameters | files | {"weights": "pretrained"}

    def weight_files(self, fetch=False):
        return {"net": self.folder / "net.safetensors", "elsewhere": None}


@pytest.mark.parametrize(
    "name, said", [("table.safetensors", "table="), ("textures/a", "textures="), ("net.safetensors", "weights of net=")]
)
def test_a_checkpoint_of_files_that_were_replaced_is_refused(images, tmp_path, name, said):
    for file in ("table.safetensors", "textures/a", "net.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("one")
    FromFiles(tmp_path).fit(images, device="cpu", checkpoint=tmp_path / "c", keep_checkpoint=True)
    assert FromFiles(tmp_path).fit(images, device="cpu", checkpoint=tmp_path / "c", keep_checkpoint=True).seen == []
    (tmp_path / name).write_text("two")
    with pytest.raises(InputError, match=f"of another training: {said}'.{{64}}', now '.{{64}}'. Delete it"):
        FromFiles(tmp_path).fit(images, device="cpu", checkpoint=tmp_path / "c")


def test_a_checkpoint_of_versions_that_noted_no_weights_is_gone_on_with(images, tmp_path):
    (tmp_path / "net.safetensors").write_text("one")
    FromFiles(tmp_path).fit(images, device="cpu", checkpoint=tmp_path / "c", keep_checkpoint=True)
    noted = torch.load(tmp_path / "c", weights_only=True)
    about = {name: value for name, value in json.loads(noted["about"]).items() if name != "weights of net"}
    torch.save({key: noted[key] for key in noted if key != "makers"} | {"about": json.dumps(about)}, tmp_path / "c")
    with pytest.warns(UserWarning, match="from unknown code"):
        assert FromFiles(tmp_path).fit(images, device="cpu", checkpoint=tmp_path / "c").seen == []


def test_a_model_whose_fit_was_interrupted_is_not_fitted(images):
    broken = Rebuilder()
    broken.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        broken.fit(images, device="cpu")
    with pytest.raises(InputError, match="not fitted"):
        broken.predict(images)


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [(3, True, [3, 3]), (3, False, [3, 3, 1]), (7, True, [7]), (50, True, [7]), (50, False, [7])],
)
def test_an_epoch_shows_every_image_once_and_never_none(images, batch_size, drop_last, sizes):
    model = Rebuilder(epochs=2, batch_size=batch_size, drop_last=drop_last).fit(images, device="cpu")
    assert [len(batch) for batch in model.seen] == sizes * 2
    epochs = [list(chain(*part)) for part in (model.seen[: len(sizes)], model.seen[len(sizes) :])]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    if sum(sizes) == 7:
        assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_history_is_the_mean_over_batches_of_each_term(images):
    class Terms(Rebuilder):
        def step(self, batch):
            loss = super().step(batch)
            return {"one": loss * 0 + len(self.seen), "two": loss * 0 + 10}

    model = Terms(epochs=2, batch_size=2).fit(images, device="cpu")
    assert model.history_ == [{"loss": 12, "one": 2, "two": 10}, {"loss": 15, "one": 5, "two": 10}]


def test_schedule_and_accumulation_count_what_they_say(images):
    rates = {"epoch": 0.01 * 0.5**1, "step": 0.01 * 0.5**4}
    for every, rate in rates.items():
        model = Rebuilder(schedule_every=every).fit(images, device="cpu")  # 3 epochs of 3 steps
        assert model.optimiser_.param_groups[0]["lr"] == pytest.approx(rate)
    model = Rebuilder(accumulate=2).fit(images, device="cpu")  # 3 epochs of 3 batches
    assert model.optimiser_.state_dict()["state"][0]["step"] == 3  # after the second batch of each epoch
    few = Rebuilder(accumulate=7).fit(images, device="cpu")
    assert few.optimiser_.state_dict()["state"][0]["step"] == 3  # fewer batches than 7: after the last of each epoch


def test_what_an_odd_batch_leaves_adds_to_the_next_epochs_first_step(images):
    """Two epochs of three batches, gradients 1 to 6, summed in twos: steps by 1 + 2 and by 3 + 4 + 5; 6 is lost."""

    class Counting(Rebuilder):
        def fit_images(self, images, val, progress):
            self.net_ = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.net_.weight)
            optimiser, gradients = torch.optim.SGD(self.net_.parameters(), 1.0), iter(range(1, 7))

            def loss(batch):
                self.weights_.append(self.net_.weight.item())
                return next(gradients) * self.net_.weight.sum()

            self.weights_ = []
            options = {"epochs": 2, "batch_size": 2, "drop_last": True, "accumulate": 2, "progress": False}
            train(self, images, loss, {"net": self.net_}, optimiser, **options)
            self.weights_.append(self.net_.weight.item())

    assert Counting().fit(images, device="cpu").weights_ == [0, 0, -3, -3, -3, -15, -15]


def test_clipping_bounds_the_gradient(images):
    norms = []

    class Watched(Rebuilder):
        def fit_images(self, images, val, progress):
            step = torch.optim.Adam.step

            def watched(optimiser, *arguments):
                gradients = [value.grad for group in optimiser.param_groups for value in group["params"]]
                norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
                return step(optimiser, *arguments)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.optim.Adam, "step", watched)
                super().fit_images(images, val, progress)

    Watched().fit(images, device="cpu")
    free = max(norms)
    norms.clear()
    Watched(clip_norm=free / 10).fit(images, device="cpu")
    assert max(norms) <= free / 10 * 1.001


def test_an_update_of_its_own_alternates_between_optimisers(images):
    class Alternating(Rebuilder):
        def fit_images(self, images, val, progress):
            nets = {"a": nn.Conv2d(3, 1, 1), "b": nn.Conv2d(3, 1, 1)}
            optimisers = {name: torch.optim.SGD(net.parameters(), 0.01) for name, net in nets.items()}

            def update(batch):
                terms = {}
                for name, net in nets.items():
                    optimisers[name].zero_grad()
                    terms[name] = net(batch).square().mean()
                    terms[name].backward()
                    optimisers[name].step()
                return terms

            self.history_ = train(
                self, images, None, nets, list(optimisers.values()), update=update, steps=5, batch_size=2,
                drop_last=True, progress=False,
            )  # fmt: skip
            assert all(value.grad is None for net in nets.values() for value in net.parameters())  # as big as weights

    model = Alternating().fit(images, device="cpu")
    assert [sorted(means) for means in model.history_] == [["a", "b"], ["a", "b"]]
    assert model.history_[1]["a"] < model.history_[0]["a"]


def test_divergence_names_the_step_and_the_images(images):
    class Diverging(Rebuilder):
        def step(self, batch):
            loss = super().step(batch)
            return loss / 0 if len(self.seen) == 5 else loss

    with pytest.raises(TrainingDiverged, match=r"loss is inf at step 5 \(epoch 2\)") as error:
        Diverging().fit(images, device="cpu")
    model = Rebuilder().fit(images, device="cpu")
    means = {float(images.pixels(row).mean()): images.samples["image"][row] for row in range(len(images))}
    named = [name for mean, name in means.items() if any(abs(mean - seen) < 1e-6 for seen in model.seen[4])]
    assert len(named) == 2
    assert all(name in str(error.value) for name in named)


def test_training_stops_when_told_and_ends_in_eval_mode(images):
    told = []
    model = Rebuilder(on_epoch=lambda epoch, means: told.append((epoch, *means)) or epoch == 1)
    model.fit(images, device="cpu")
    assert told == [(0, "loss"), (1, "loss")]
    assert len(model.history_) == 2
    assert not model.net_.training


def test_tuples_of_any_dataset_reach_the_loss(images):
    class Pairs(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.full((3, 8, 8), float(index)), index

    class Paired(Rebuilder):
        def fit_images(self, images, val, progress):
            super().fit_images(Pairs(), val, progress)

        def step(self, batch):
            pictures, indices = batch
            assert pictures[:, 0, 0, 0].tolist() == indices.tolist()
            return super().step(pictures)

    assert len(Paired(epochs=1).fit(images, device="cpu").seen) == 2


def test_wrong_precision_and_batch_size_are_refused(images):
    for settings, sentence in (
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"precision": "half"}, "must be one of float32"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            Rebuilder(**settings).fit(images, device="cpu")


def test_joined_state_goes_back_to_its_networks():
    first, second = ({"a": nn.Linear(2, 2), "ab": nn.Linear(2, 2)} for _ in range(2))
    load_joined_state(second, joined_state(first))
    assert all(torch.equal(first[name].weight, second[name].weight) for name in first)


def interrupted(images, file, device, **settings):
    """Leaves the checkpoint of a training that ended in its fifth step."""
    model = Rebuilder(**settings)
    model.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        model.fit(images, device=device, checkpoint=file)
    assert file.exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_a_gpu_resumes(images, tmp_path, precision):
    with gpu(own_random=True):
        interrupted(images, tmp_path / "c", "cuda", precision=precision)
        whole = Rebuilder(precision=precision).fit(images, device="cuda")
        resumed = Rebuilder(precision=precision).fit(images, device="cuda", checkpoint=tmp_path / "c")
        for first, second in zip(weights(whole), weights(resumed), strict=True):
            assert first.is_cuda and second.is_cuda
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_checkpoint_of_a_gpu_is_resumed_on_a_cpu(images, tmp_path):
    settings = {"validate": lambda: 0.0}  # the weights of the first epoch remain, which the GPU has seen alone
    with gpu():
        interrupted(images, tmp_path / "c", "cuda", **settings)
    with pytest.warns(UserWarning, match="from other device: .*, cuda; .*, cpu.$"):
        resumed = Rebuilder(**settings).fit(images, device="cpu", checkpoint=tmp_path / "c")
    with gpu():
        whole = Rebuilder(**settings).fit(images, device="cuda")
        for first, second in zip(weights(whole), weights(resumed), strict=True):
            assert not second.is_cuda
            torch.testing.assert_close(first.cpu(), second, rtol=1e-3, atol=1e-3)
