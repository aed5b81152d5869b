"""Sounds: clips are read or refused for what is wrong with them, features and network are those that are published."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blackprop import errors
from blackprop.experiments.tasks._objectives import Classification
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.audio import _augmentation as ways
from blackprop.experiments.tasks.audio._angular_margin import AngularMargin
from blackprop.experiments.tasks.audio._ecapa import (
    AttentiveStatistics,
    CosineClassifier,
    Ecapa,
    Res2Convolution,
    SERes2Block,
)
from blackprop.experiments.tasks.audio._log_mel import LogMel
from blackprop.experiments.tasks.audio._tasks import SpeechDigits, UrbanSound8K
from sounds import RATE, TINY, seeded, tone
from support import draw

GOLDEN = np.load(Path(__file__).parent / "data" / "log_mel.npz")


# Features.


@pytest.mark.parametrize(("rate", "bands"), [(16_000, 80), (8_000, 40)])
def test_log_mel_is_that_of_librosa(rate, bands):
    """Golden vectors by librosa 0.11; the power in every band and frame agrees to 1e-4 of itself."""
    x, expected = torch.tensor(GOLDEN[f"{rate}.x"]), torch.tensor(GOLDEN[f"{rate}.db"])
    found = LogMel(rate, bands).decibels(x[None])[0]
    assert found.shape == expected.shape == (bands, 1 + len(x) // (rate // 100))
    assert ((10 ** ((found - expected) / 10) - 1).abs() < 1e-4).all()


def test_features_lose_each_clips_mean_and_take_int16_as_floats(generator):
    mel = LogMel(RATE, 40)
    x = torch.randint(-(2**15), 2**15, (3, 1600), generator=generator).short()
    features = mel(x)
    torch.testing.assert_close(features, mel(x.float() / 2**15))
    torch.testing.assert_close(features, mel.decibels(x) - mel.decibels(x).mean(2, keepdim=True))
    assert features.mean(2).abs().max() < 1e-4
    assert not mel(torch.zeros(1, 1600, dtype=torch.int16)).any()  # silence is no NaN


def test_a_clip_is_told_to_80_dB_below_its_loudest():
    x = torch.tensor(tone(1000, 0.2)).float() * torch.cat((torch.ones(800), torch.zeros(800)))
    decibels = LogMel(RATE, 40).decibels(x[None])
    assert decibels.max() - decibels.min() == pytest.approx(80)


# The network.


def test_the_published_network_has_the_published_parameters():
    c, a, b = 1024, 3072, 128
    first = 80 * c * 5 + c + 2 * c
    dense = c * c + c + 2 * c
    parts = 7 * (128 * 128 * 3 + 128 + 2 * 128)
    gate = c * b + b + b * c + c
    aggregate = 3 * c * a + a + 2 * a
    attention = 3 * a * b + b + 2 * b + b * a + a
    digital = first + 3 * (2 * dense + parts + gate) + aggregate + attention + 2 * (2 * a) + 192 * 10
    placed = []

    def place(d_in, d_out):
        placed.append((d_in, d_out))
        return nn.Linear(d_in, d_out, bias=False)

    model = UrbanSound8K(size=Size.PUBLISHED).build(place, 0)
    assert placed == [(6144, 192)]
    assert sum(p.numel() for p in model.parameters()) == digital + 6144 * 192 == 20_769_280
    assert all(p.requires_grad for p in model.parameters())
    kernels = [
        (m.kernel_size, m.dilation) for m in model.modules() if isinstance(m, nn.Conv1d) if m.kernel_size != (1,)
    ]
    assert kernels == [((5,), (1,))] + [((3,), (dilation,)) for dilation in (2, 3, 4) for _ in range(7)]
    assert model(draw(2, 1600)).shape == (2, 10)


def test_the_network_answers_with_cosines_and_learns_through_all_its_parts():
    model = Ecapa(RATE, 10, TINY, nn.Linear)
    cosines = model(draw(4, 1600))
    assert cosines.shape == (4, 10)
    assert cosines.abs().max() <= 1 + 1e-6
    cosines.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert [n for n, p in model.named_parameters() if not p.grad.any() and "bias" not in n] == []
    louder = model.eval()(draw(4, 1600) * 3)
    torch.testing.assert_close(louder, model(draw(4, 1600)), rtol=1e-3, atol=1e-4)  # the mean in dB is taken off


def test_a_res2_convolution_passes_its_first_part_and_adds_each_result_to_the_next():
    block, x = Res2Convolution(16, 3, 2).eval(), draw(2, 16, 20)
    y, parts = block(x), x.chunk(8, 1)
    assert torch.equal(y[:, :2], x[:, :2])
    torch.testing.assert_close(y[:, 2:4], block.convolutions[0](parts[1]))
    torch.testing.assert_close(y[:, 6:8], block.convolutions[2](parts[3] + y[:, 4:6]))


def test_a_block_adds_to_what_it_was_given_and_reaches_as_far_as_its_dilation():
    block, x = SERes2Block(16, 4, 3, 4).eval(), draw(1, 16, 81)
    last = block.inner[2][2]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    assert torch.equal(block(x), x)
    convolution = Res2Convolution(16, 3, 4).eval()
    moved = x.clone()
    moved[..., 40] += 1
    differs = (convolution(moved) - convolution(x)).abs().sum((0, 1)) > 1e-7
    assert set(differs.nonzero().flatten().tolist()) <= set(range(40 - 28, 40 + 29, 4))


def test_attention_weighs_frames_and_without_it_the_statistics_are_plain():
    pool, x = AttentiveStatistics(6, 4).eval(), draw(3, 6, 30)
    weighed = pool(x)
    for parameter in pool.attention[2].parameters():
        nn.init.zeros_(parameter)
    plain = torch.cat((x.mean(2), x.std(2, correction=0)), 1)
    torch.testing.assert_close(pool(x), plain)
    assert not torch.allclose(weighed, plain, atol=1e-3)


def test_the_classifier_tells_angles():
    classifier, x = CosineClassifier(5, 3), draw(4, 5)
    expected = F.cosine_similarity(x[:, None], classifier.weight[None], dim=2)
    torch.testing.assert_close(classifier(7 * x), expected)


# The objective.


def test_the_margin_is_added_to_the_angle_of_the_right_class_alone(generator):
    cosines = 2 * torch.rand(64, 5, generator=generator) - 1
    y = torch.randint(5, (64,), generator=generator)
    cosines[0, y[0]], cosines[1, y[1]] = -0.999, -0.97  # θ + 0.2 past π, and just before it
    angles, right = cosines.double().acos(), F.one_hot(y, 5).bool()
    wanted = torch.where(right, (angles + 0.2).cos(), angles.cos())
    past = right & (angles + 0.2 > math.pi)
    assert past[0].any()
    assert not past[1].any()
    wanted = torch.where(past, cosines.double() - 0.2 * math.sin(0.2), wanted)
    loss = AngularMargin().loss(cosines, y)
    torch.testing.assert_close(loss.double(), F.cross_entropy(30 * wanted, y), rtol=1e-5, atol=1e-5)
    assert loss > AngularMargin(margin=0.1).loss(cosines, y) > AngularMargin(margin=0.0).loss(cosines, y)
    torch.testing.assert_close(
        AngularMargin(margin=0.0, scale=4.0).loss(cosines, y), Classification().loss(4 * cosines, y)
    )
    both = [objective.scores(objective.tally(cosines, y)) for objective in (AngularMargin(), Classification())]
    assert both[0] == both[1]


def test_the_margins_gradient_is_finite_at_both_ends():
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    AngularMargin().loss(cosines, torch.tensor([0, 0])).backward()
    assert cosines.grad is not None
    assert cosines.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"margin": -0.1}, {"margin": 1.6}, {"scale": 0.0}, {"scale": float("nan")}])
def test_a_wrong_margin_is_refused(wrong):
    with pytest.raises(errors.ArgumentError, match=rf"`AngularMargin\({next(iter(wrong))}="):
        AngularMargin(**wrong)


# Augmentation.


def test_a_batch_is_joined_by_four_copies_drawn_from_the_generator_alone():
    task, x, y = SpeechDigits(augmented=True), (draw(6, 2000) * 1000).short(), torch.arange(6)
    before = torch.get_rng_state()
    (first, labels), (again, _), (other, _) = (task.augment(x, y, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.shape == (30, 2000)
    assert torch.equal(labels, y.repeat(5))
    assert torch.equal(first[:6], x / 2**15)
    assert torch.equal(first, again)
    assert all(not torch.equal(a, b) for a, b in zip(first.split(6)[1:], other.split(6)[1:], strict=True))
    assert all(a is b for a, b in zip(SpeechDigits().augment(x, y, seeded()), (x, y), strict=True))


def test_speed_moves_a_tone_and_its_end():
    x = torch.tensor(tone(1000, 1.0)).float().repeat(40, 1)
    heard = ways.at_another_speed(x, RATE, seeded())
    found = {int(frequency) for frequency in torch.fft.rfft(heard[:, :4000]).abs().argmax(1) * 2}
    assert found == {950, 1000, 1050}
    fast = heard[(heard[:, -100:] == 0).all(1)]
    assert 0 < len(fast) < 40
    assert fast[:, : round(8000 / 1.05) - 50].square().mean() == pytest.approx(0.125, rel=1e-2)


def test_noise_is_0_to_15_dB_below_the_clip():
    x = draw(200, 4000) * torch.logspace(-3, 0, 200)[:, None]
    noise = ways.with_noise(x, RATE, seeded()) - x
    ratio = 10 * (x.square().mean(1) / noise.square().mean(1)).log10()
    assert ratio.min() > -0.3
    assert ratio.max() < 15.3
    assert ratio.max() - ratio.min() > 14


def test_reverberation_decays_by_60_dB_in_its_time_and_keeps_the_loudness():
    x = torch.zeros(50, 8000)
    x[:, 0] = 1
    heard = ways.reverberant(x, RATE, seeded())
    torch.testing.assert_close(heard.square().mean(1), x.square().mean(1))
    early, late = (heard[:, start : start + 400].square().mean(1) for start in (0, 1600))
    fall = 10 * (early / late).log10()  # dB in 0.2 s: 60 where the time is 0.2 s, 20 where it is 0.6 s
    assert fall.min() == pytest.approx(20, abs=3)
    assert fall.max() == pytest.approx(60, abs=6)


def test_bands_and_chunks_are_dropped():
    x = draw(100, 8000)
    heard = ways.with_parts_dropped(x, RATE, seeded())
    silent = (heard == 0).sum(1) / RATE
    assert silent.min() >= 0.0624
    assert 0.4 < silent.max() <= 5 * 0.125
    gaps = 1 - ways._gaps(500, 1000, 3, (50, 50), seeded()).mean(1)
    assert gaps.min() == pytest.approx(0.05, abs=0.002)
    assert 0.1 < gaps.max() <= 0.153
    quiet = torch.fft.rfft(heard - heard.mean(1, keepdim=True)).abs()
    typical = torch.fft.rfft(x).abs()
    assert (quiet.unfold(1, 150, 50).mean(2).amin(1) < 0.5 * typical.mean()).double().mean() > 0.9
