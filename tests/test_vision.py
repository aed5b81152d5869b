"""The networks of CIFAR-10: the published ones, the recipe of airbench, augmentation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau

import blackprop as bp
from blackprop.experiments import Cifar10
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.vision import _cifar10 as cifar10
from blackprop.experiments.tasks.vision._airbench import nesterov, triangle
from blackprop.experiments.tasks.vision._augmentation import cutout, flip, translate
from blackprop.experiments.tasks.vision._cifar10 import Vision
from blackprop.experiments.tasks.vision._pixels import Normalise
from blackprop.experiments.tasks.vision._whitening import Whitening, whitening_filters
from cifar10_files import FEW, write
from support import DATA, draw


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "cifar10" / "cifar-10-batches-py")


def linear(d_in, d_out):
    return nn.Linear(d_in, d_out)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# The networks.


def test_the_published_cnn_is_the_published_one():
    model = Cifar10(Vision.CNN, Size.PUBLISHED).build(linear, 0)
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    weights = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128)
    biases = norms = 2 * (32 + 64 + 128)
    head = (2048 * 1024 + 1024) + 2 * 1024 + (1024 * 10 + 10)
    assert count(model) == weights + biases + 2 * norms + head == 2_398_378
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [0.25, 0.35, 0.4, 0.5]


def test_the_published_airbench_is_the_published_one(monkeypatch):
    monkeypatch.setattr(cifar10, "_whitening", lambda *_: torch.zeros(24, 3, 2, 2))
    model = Cifar10(Vision.AIRBENCH, Size.PUBLISHED).build(lambda a, b: nn.Linear(a, b, bias=False), 0)
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    pairs = [(24, 128), (128, 384), (384, 512)]
    groups = sum(9 * (a * b + 2 * b * b) + 3 * b for a, b in pairs)  # of a norm, the bias alone
    head = 512 * 1024 + 2 * 1024 + 1024 * 10
    assert count(model) == 24 + groups + head == 10_446_872
    fixed = sum(p.numel() for p in model.parameters()) - count(model)
    assert fixed == 24 * 3 * 2 * 2 + 3 * (128 + 384 + 512)


def test_of_the_physical_network_little_but_the_devices_is_trained(folder):
    model = Cifar10(**FEW, data_dir=folder).build(lambda a, b: nn.Linear(a, b, bias=False), 0)
    assert count(model) == (64 * 64 + 64 * 10) + 2 * (64 + 64 + 10)


@pytest.mark.parametrize(
    ("network", "size", "places"),
    [
        (Vision.CNN, Size.PUBLISHED, [(2048, 1024)]),
        (Vision.AIRBENCH, Size.PUBLISHED, [(512, 1024)]),
        (Vision.PHYSICAL, Size.PUBLISHED, [(864, 512), (512, 10)]),
        (Vision.CNN, Size.SMALL, [(128, 64)]),
        (Vision.AIRBENCH, Size.SMALL, [(64, 128)]),
        (Vision.PHYSICAL, Size.SMALL, [(64, 64), (64, 10)]),
    ],
)
def test_devices_stand_where_they_should_and_the_seed_draws_the_rest(network, size, places, folder):
    found, before = [], torch.get_rng_state()

    def place(d_in, d_out):
        found.append((d_in, d_out))
        return nn.Linear(d_in, d_out)

    task = replace(Cifar10(network, size), **FEW, data_dir=folder)
    model, again, other = (task.build(place, seed) for seed in (1, 1, 2))
    assert found == 3 * places
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    x, y = task.data().x_train[:8], task.data().y_train[:8]
    task.objective.loss(model(x), y).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_whitened_patches_are_uncorrelated_and_of_one_size(folder):
    x = Normalise()(Cifar10(**FEW, data_dir=folder).data().x_train)
    filters = whitening_filters(x, 12, 2, 0.0)
    z = Whitening(filters)(x).detach().transpose(0, 1).flatten(1)
    assert torch.equal(z[:12], -z[12:])
    assert torch.allclose(z[:12] @ z[:12].T / z.shape[1], torch.eye(12), atol=1e-2)
    strongest = whitening_filters(x, 3, 2, 5e-4)
    assert torch.equal(strongest[:3], whitening_filters(x, 12, 2, 5e-4)[:3])
    spread = [float(F.conv2d(x, f[None] / f.norm()).square().mean()) for f in filters[:12]]
    assert spread == sorted(spread, reverse=True)


def test_the_groups_of_airbench_begin_by_passing_their_input_on(folder):
    task = replace(Cifar10(Vision.AIRBENCH, Size.PUBLISHED), **FEW, data_dir=folder)
    group = task.build(linear, 0)[3]
    x = draw(4, 24, 8, 8)
    passed = group.first[0](x)
    assert torch.allclose(passed[:, :24], x, atol=1e-6)
    assert passed.shape[1] == 128
    first = group.first(x)
    normalised = (first - first.mean((0, 2, 3), keepdim=True)) / first.std((0, 2, 3), keepdim=True, correction=0)
    expected = F.gelu(normalised)  # the second passes the first on, its norm makes it of spread 1
    expected = (expected - expected.mean((0, 2, 3), keepdim=True)) / expected.std((0, 2, 3), keepdim=True, correction=0)
    assert torch.allclose(group(x), F.gelu(expected + first), atol=1e-4)


# The published recipe of airbench.


def _airbench(folder):
    task = Cifar10(Vision.AIRBENCH, **FEW, data_dir=folder)
    generator = torch.Generator().manual_seed(0)
    model = task.build(lambda a, b: bp.PhysicalLayer(bp.devices.LightModulator(a, b), generator=generator), 0)
    return task, model


def test_the_rates_and_decays_are_those_of_the_published_formula(folder):
    _, model = _airbench(folder)
    sgd, _ = nesterov(model, lr=18.0, batch_size=1024, steps=100, epochs=10)
    per_example = 1024 * (1 + 1 / (1 - 0.85))
    rates = {}
    for group in sgd.param_groups:
        assert (group["momentum"], group["nesterov"]) == (0.85, True)
        rates.update(
            {id(p): (group["initial_lr"] / 1024, group["initial_lr"] * group["weight_decay"]) for p in group["params"]}
        )
    layer = next(m for m in model if isinstance(m, bp.PhysicalLayer))
    expected = {}
    for name, p in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        is_bias = isinstance(owner, (nn.BatchNorm1d, nn.BatchNorm2d)) and name.endswith("bias")
        decay = 0.0 if p is layer.gain else 0.012 * 1024 / per_example
        if p.requires_grad and p is not layer.theta:
            expected[id(p)] = pytest.approx(((64 if is_bias else 1) * 18 / per_example, decay))
    assert rates == expected


def test_the_rate_of_a_mean_over_the_batch_grows_with_the_batch():
    model = nn.Linear(1, 1, bias=False)
    rates = [nesterov(model, 18.0, size, 10, 1)[0].param_groups[-1]["initial_lr"] / size for size in (128, 1024)]
    assert rates[0] == pytest.approx(rates[1])
    assert 1024 * rates[1] == pytest.approx(2.348, abs=1e-3)


def test_the_whitening_bias_moves_for_three_epochs_alone_and_its_filters_never(folder):
    task, model = _airbench(folder)
    task = replace(task, epochs=5)
    steps, found = task.steps(40), task.data()
    pairs = task.optimizers(model, steps)
    whitening, layer = model[1], next(m for m in model if isinstance(m, bp.PhysicalLayer))
    filters, moved, shares = whitening.weight.clone(), [], []
    assert [type(optimizer).__name__ for optimizer, _ in pairs] == ["SGD", "Adam"]
    assert pairs[1][0].param_groups[0]["params"] == [layer.theta]
    assert (pairs[1][0].param_groups[0]["lr"], pairs[1][0].param_groups[0]["weight_decay"]) == (task.device_lr, 0)
    draws = torch.Generator().manual_seed(0)
    for step in range(steps):
        before = whitening.bias.detach().clone()
        shares.append(pairs[0][0].param_groups[0]["lr"] / pairs[0][0].param_groups[0]["initial_lr"])
        rows = torch.arange(8) + 8 * (step % 5)
        for optimizer, _ in pairs:
            optimizer.zero_grad()
        x, y = task.augment(found.x_train[rows], found.y_train[rows], draws)
        task.objective.loss(model(x), y).backward()
        for optimizer, schedule in pairs:
            optimizer.step()
            schedule.step()
        moved.append(not torch.equal(before, whitening.bias))
    assert moved == [step < 3 * 5 for step in range(steps)]
    assert torch.equal(filters, whitening.weight)
    assert shares == pytest.approx([triangle(step / steps) for step in range(steps)])
    assert all(schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-9) for _, schedule in pairs)


def test_the_rate_warms_up_and_decays_linearly():
    shares = [triangle(done) for done in (0, 0.05, 0.1, 0.55, 1)]
    assert shares == pytest.approx([0.2, 0.6, 1.0, 0.5, 0.0])


def test_airbench_smooths_its_labels_and_scales_its_output(folder):
    _, model = _airbench(folder)
    assert Cifar10(Vision.AIRBENCH).objective.label_smoothing == 0.2
    assert Cifar10(Vision.CNN).objective.label_smoothing == 0
    features = draw(4, 128)
    assert torch.allclose(model[-1](model[-2](features)), F.linear(features, model[-2].weight) / 9)


def test_the_published_cnn_halves_its_rates_on_a_plateau_of_the_score():
    task = Cifar10(Vision.CNN, Size.PUBLISHED)
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), bp.PhysicalLayer(bp.devices.LightModulator(4, 4), generator=generator))
    ((adam, schedule),) = task.optimizers(model, 100)
    assert isinstance(schedule, ReduceLROnPlateau)
    assert [group["lr"] for group in adam.param_groups] == [1e-3, 1e-3, 1e-2]  # weights, gains, θ
    for score in (0.1, 0.2, *[0.2] * 5):  # rising, then 5 evaluations without a rise
        schedule.step(score)
    assert adam.param_groups[0]["lr"] == 1e-3
    schedule.step(0.2)
    assert [group["lr"] for group in adam.param_groups] == [5e-4, 5e-4, 5e-3]


# Augmentation.


def test_an_image_is_flipped_every_second_time():
    x = draw(400, 3, 4, 4)
    flipped = flip(x, torch.Generator().manual_seed(0))
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert bool((mirrored | (flipped == x).flatten(1).all(1)).all())
    assert 160 < int(mirrored.sum()) < 240


def test_an_image_is_moved_within_reach_with_its_reflection_behind_it():
    x = draw(300, 2, 8, 8)
    moved = translate(x, 2, torch.Generator().manual_seed(0))
    padded, met = F.pad(x, (2, 2, 2, 2), mode="reflect"), set()
    for image, wide in zip(moved, padded, strict=True):
        fits = [(i, j) for i in range(5) for j in range(5) if torch.equal(image, wide[:, i : i + 8, j : j + 8])]
        assert len(fits) == 1
        met.update(fits)
    assert len(met) == 25


def test_a_square_of_the_fill_is_cut_out_inside_the_image():
    x, fill = torch.zeros(300, 3, 8, 8, dtype=torch.uint8), torch.tensor([1.0, 2.0, 3.0])
    cut = cutout(x, 3, fill, torch.Generator().manual_seed(0))
    assert cut.dtype is torch.uint8
    corners = set()
    for image in cut:
        where = image[0].nonzero()
        low, high = where.min(0).values, where.max(0).values
        assert len(where) == 9
        assert (high - low).tolist() == [2, 2]
        assert all(torch.equal(image[c] // (c + 1), image[0]) for c in range(3))
        corners.add(tuple(low.tolist()))
    assert corners == {(i, j) for i in range(6) for j in range(6)}


def test_the_same_draw_makes_the_same_batch_and_only_airbench_augments(folder):
    task = Cifar10(Vision.AIRBENCH, **FEW, data_dir=folder)
    x, y = task.data().x_train, task.data().y_train
    kept, before = x.clone(), torch.get_rng_state()
    first, again, other = (task.augment(x, y, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[1], y)
    assert torch.equal(x, kept)
    assert torch.equal(before, torch.get_rng_state())
    assert Cifar10(Vision.CNN, data_dir=folder).augment(x, y, torch.Generator())[0] is x


# The real ones.


@pytest.mark.skipif(
    not (DATA / "cifar10").is_dir(), reason="needs cifar10/cifar-10-batches-py in the folder of real data"
)
def test_on_real_images_the_oracle_is_well_above_frozen():
    task, accuracy = Cifar10(data_dir=DATA, train_images=3000, epochs=3), {}
    found = task.data()
    assert (len(found.x_test), found.classes[0], found.y_test.bincount().tolist()) == (10_000, "airplane", [1000] * 10)
    for name in ("oracle", "frozen"):
        generator, order = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)

        def layer(d_in, d_out, name=name, generator=generator):
            made = bp.PhysicalLayer(bp.devices.LightModulator(d_in, d_out), *bp.presets.oracle(), generator=generator)
            made.theta.requires_grad_(name == "oracle")
            return made

        model = task.build(layer, 0)
        ((adam, schedule),) = task.optimizers(model, task.steps(3000))
        for _ in range(task.epochs):
            for rows in torch.randperm(3000, generator=order).split(task.batch_size)[: task.segment(3000)]:
                adam.zero_grad()
                task.objective.loss(model(found.x_train[rows]), found.y_train[rows]).backward()
                adam.step()
                schedule.step()
        model.eval()
        with torch.no_grad():
            accuracy[name] = float((model(found.x_test[:2000]).argmax(1) == found.y_test[:2000]).double().mean())
    assert accuracy["oracle"] > 0.45
    assert accuracy["frozen"] < accuracy["oracle"] - 0.08
