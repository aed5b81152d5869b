"""Devices made from measured curves: their interpolation, their limits, their files, and training by them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.interpolate import PchipInterpolator

import blackprop as bp
from blackprop.devices import MeasuredElements
from blackprop.devices.measured._interpolation import Curve
from blackprop.errors import ArgumentError, LimitError
from blackprop.testing import check_device
from support import draw


def points(count: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, generator=generator, dtype=torch.float64).cumsum(0)
    return places, torch.randn(count, generator=generator, dtype=torch.float64)


def ring(theta: torch.Tensor) -> torch.Tensor:
    return 1 - 0.9 / (1 + (2 * theta) ** 2)


# The curve.


@pytest.mark.parametrize("count", [2, 3, 9])
@pytest.mark.parametrize("seed", range(3))
def test_a_curve_is_that_of_scipy(count, seed):
    places, values = points(count, seed)
    theta = torch.linspace(float(places[0]), float(places[-1]), 57, dtype=torch.float64)
    reference = PchipInterpolator(places.numpy(), values.numpy())
    torch.testing.assert_close(Curve.through(places, values).at(theta), torch.from_numpy(reference(theta.numpy())))


def test_its_derivative_is_that_of_scipy():
    places, values = points()
    theta = torch.linspace(float(places[0]) + 0.01, float(places[-1]) - 0.01, 41, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(Curve.through(places, values).at(theta).sum(), theta)
    reference = PchipInterpolator(places.numpy(), values.numpy()).derivative()
    torch.testing.assert_close(slope, torch.from_numpy(reference(theta.detach().numpy())))


def test_it_stays_between_neighbours():
    places, values = points(12, 3)
    theta = torch.linspace(float(places[0]), float(places[-1]), 999, dtype=torch.float64)
    at = (torch.searchsorted(places, theta, right=True) - 1).clamp(0, 10)
    found, one, other = Curve.through(places, values).at(theta), values[at], values[at + 1]
    assert bool((found >= torch.minimum(one, other) - 1e-12).all())
    assert bool((found <= torch.maximum(one, other) + 1e-12).all())


# The device.


def test_elements_answer_as_measured():
    theta, response = points()
    device = MeasuredElements(theta, response, d_in=3, d_out=2)
    setting = theta[[0, 1, 2, 3, 4, 8]].float()
    y = device.transfer(torch.eye(3), setting)
    torch.testing.assert_close(y.mT, response[[0, 1, 2, 3, 4, 8]].view(2, 3).float())


def test_each_element_has_its_own_curve():
    theta = torch.linspace(0, 1, 5)
    response = draw(5, 2, 3, dtype=torch.float64)
    device = MeasuredElements(theta, response)
    assert (device.in_shape, device.out_shape) == ((3,), (2,))
    torch.testing.assert_close(device.transfer(torch.eye(3), torch.full((6,), 0.25)).mT, response[1].float())


def test_contract():
    theta = torch.linspace(-2, 2, 41)
    check_device(MeasuredElements(theta, ring(theta), d_in=5, d_out=4))
    check_device(MeasuredElements(theta, torch.stack([ring(theta + 0.1 * k) for k in range(6)], 1).view(41, 2, 3)))
    crosstalk = torch.eye(20) + 0.02 * draw(20, 20).abs()
    check_device(MeasuredElements(theta, ring(theta), d_in=5, d_out=4, crosstalk=crosstalk))


def test_beyond_the_measured_range_it_is_refused():
    device = MeasuredElements([0.0, 1.0, 2.0], [0.0, 1.0, 0.5], d_in=2, d_out=1)
    with pytest.raises(LimitError, match=r"outside the device's limits"):
        device.program(torch.tensor([0.5, 2.1]))
    with pytest.raises(LimitError, match="measured within"):
        device.transfer(torch.ones(1, 2), torch.tensor([0.5, -0.1]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_crosstalk_narrows_the_limits_so_that_every_element_stays_inside(sign):
    theta = torch.linspace(0, 4, 9)
    crosstalk = torch.eye(12) + sign * 0.05 * draw(12, 12).abs()
    device = MeasuredElements(theta, ring(theta), d_in=4, d_out=3, crosstalk=crosstalk)
    corner = torch.where(
        torch.rand(500, 12, generator=torch.Generator().manual_seed(0)) < 0.5, device.theta.low, device.theta.high
    )
    driven = corner @ crosstalk.mT
    assert float(driven.min()) >= 0
    assert float(driven.max()) <= 4
    assert float(driven.max()) > 3.5 or float(driven.min()) < 0.5  # and not narrower than needed
    device.transfer(torch.ones(1, 4), device.theta.high)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"theta": [0.0, 2.0, 1.0]}, "ascend"),
        ({"theta": [0.0, 1.0]}, "takes K settings"),
        ({"response": [0.0, math.nan, 1.0]}, "not finite"),
        ({"d_in": None}, "must be given"),
        ({"response": torch.zeros(3, 2, 2), "d_in": 3}, "2 inputs and 2 outputs"),
        ({"crosstalk": torch.eye(3)}, r"\(4, 4\)"),
        ({"crosstalk": torch.eye(4)[[0, 0, 2, 3]] * torch.tensor([1.0, -1.0, 1.0, 1.0])[:, None]}, "no setting"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_tables_that_cannot_serve_are_refused(change, match):
    given = {"theta": [0.0, 1.0, 2.0], "response": [0.0, 1.0, 0.5], "d_in": 2, "d_out": 2, **change}
    with pytest.raises(ArgumentError, match=match):
        MeasuredElements(**given)


# Files.


def test_a_table_of_one_curve(tmp_path):
    path = tmp_path / "ring.csv"
    path.write_text("theta,response,noise\n1.0,0.5,0.1\n0.0,1.0,0.1\n2.0,0.25,0.1\n")
    device = MeasuredElements.from_csv(path, 3, 2)
    assert (device.theta.low, device.theta.high) == (0.0, 2.0)
    torch.testing.assert_close(device.transfer(torch.eye(3), torch.ones(6)), torch.full((3, 2), 0.5))
    assert device.noise == pytest.approx(0.1 / math.sqrt((1 + 0.25 + 0.0625) / 3))


def test_repeated_lines_are_averaged_and_tell_the_noise(tmp_path):
    path = tmp_path / "ring.csv"
    path.write_text("theta,response\n0,1.1\n0,0.9\n1,0.1\n1,-0.1\n")
    device = MeasuredElements.from_csv(path, 1, 1)
    torch.testing.assert_close(device.transfer(torch.ones(1, 1), torch.zeros(1)), torch.ones(1, 1))
    assert device.noise == pytest.approx(math.sqrt(0.02) / math.sqrt(0.5))


def test_a_table_of_a_curve_for_each_element(tmp_path):
    path, response = tmp_path / "all.csv", draw(4, 2, 3, dtype=torch.float64)
    lines = [f"{k / 3},{i},{j},{float(response[k, i, j])!r}" for i in range(2) for k in range(4) for j in range(3)]
    path.write_text("\n".join(["theta,output,input,response", *lines]))
    device = MeasuredElements.from_csv(path, 3, 2)
    torch.testing.assert_close(device.transfer(torch.eye(3), torch.full((6,), 2 / 3)).mT, response[2].float())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("volts,response\n0,1\n1,2\n", "columns theta and response"),
        ("theta,response,output\n0,1,0\n1,2,0\n", "output with input"),
        ("theta,response\n0,1\n1,?\n", "line 3"),
        ("theta,response\n0,1\n1,nan\n", "line 3"),
        ("theta,response,output,input\n0,1,0,0\n1,2,0,0\n", "a curve for each"),
        (
            "theta,response,output,input\n" + "".join(f"{t},1,{i},0\n" for i in range(2) for t in (0, 1 + i)),
            "other settings",
        ),
        ("theta,response\n0,1\n", "takes K settings"),
        ("", "it has none"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, text, match):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=match):
        MeasuredElements.from_csv(path, 1, 2)


# Training.


def test_the_default_trains_it_like_the_oracle():
    theta = torch.linspace(-1.5, 1.5, 61)
    device = MeasuredElements(theta, theta.sin(), d_in=16, d_out=8)
    target = 0.7 * torch.rand(8, 16, generator=torch.Generator().manual_seed(1)) - 0.35
    losses = {}
    for name, method in (("default", ()), ("oracle", bp.presets.oracle())):
        layer = bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.Adam(layer.parameters(), 0.03)
        for step in range(150):
            x = draw(32, 16, seed=step)
            optimizer.zero_grad()
            loss = (layer(x) - x @ target.mT).square().mean()
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["default"] < 1.1 * losses["oracle"] + 1e-4
    assert losses["oracle"] < 1e-2
