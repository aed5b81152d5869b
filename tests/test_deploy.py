"""From a trained model to devices: what each stage finds, what it costs, what is undone, what a file refuses."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.deployment import PortGains, load
from blackprop.devices import Declared, ImperfectMZIMesh, LightModulator, Matrix, Microring, MZIMesh, Noisy
from blackprop.errors import ArgumentError, BudgetExhausted, CheckpointError, IncompatibleError, ShapeError
from support import draw

N = 8


def trained(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [bp.PhysicalLayer(MZIMesh(N, N), bias=True)]
    layers += [nn.BatchNorm1d(N)] if norm else []
    model = nn.Sequential(*layers, nn.ReLU(), bp.PhysicalLayer(MZIMesh(N, 4)))
    for layer, gain in ((model[0], 2.0), (model[-1], 3.0)):
        layer.gain.data.fill_(gain)
        layer.theta.data += 0.5 * draw(layer.theta.numel(), seed=3)
    model[0].bias.data.copy_(0.1 * draw(N, seed=4))
    return model.eval()


def chips(*, phase: float = 0.1, noise: float = 0.01) -> dict[str, bp.Device]:
    made = {"0": ImperfectMZIMesh(N, N, phase=phase, seed=1), "2": ImperfectMZIMesh(N, 4, phase=phase, seed=2)}
    return {name: Noisy(chip, read=noise, seed=7) for name, chip in made.items()}


def classes(model: nn.Module, rows: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, and the classes that the trained model gives them."""
    x = draw(rows, N, seed=5)
    with torch.no_grad():
        return x, model(x).argmax(1)


def stages(report) -> dict[str, bp.deployment.StageReport]:
    return {stage.name: stage for stage in report.stages}


# What the stages reach.


def test_steps_bring_a_copy_to_the_trained_outputs_and_the_trained_model_stays():
    model = trained()
    before = copy.deepcopy(model.state_dict())
    x = draw(240, N, seed=5)
    report = bp.deploy(model, chips(), x)
    found = stages(report)
    assert list(found) == ["written", "ports", "scales", "calibration", "steps"]
    assert found["steps"].kept
    assert report.after.loss < 0.05 * report.before.loss
    fresh = draw(100, N, seed=6)  # rows that no stage has seen
    with torch.no_grad():
        wanted, got = model(fresh), report.model.eval()(fresh)
    assert (got - wanted).norm() < 0.1 * wanted.norm()
    for name, value in model.state_dict().items():
        if not name.endswith("_extra_state"):  # which holds the ledger
            assert torch.equal(value, before[name]), name


def test_classes_give_accuracy_and_the_loss_of_the_trained_model_is_told():
    model = trained()
    report = bp.deploy(model, chips(), classes(model))
    assert report.trained.accuracy == 1.0
    assert report.before.accuracy is not None
    assert report.after.accuracy is not None
    assert report.after.accuracy >= max(0.95, report.before.accuracy)
    assert "trained model" in repr(report)


def test_gains_at_the_ports_undo_gains_at_the_ports():
    torch.manual_seed(1)
    model = nn.Sequential(bp.PhysicalLayer(Matrix(6, 5)))
    a, b = 1 + 0.4 * torch.rand(6), 1 + 0.4 * torch.rand(5)
    device = Declared(PortGains(Matrix(6, 5), a, b), linear=True)
    report = bp.deploy(model, device, draw(120, 6, seed=2), steps=0)
    assert stages(report)["ports"].kept
    assert report.before.loss > 0.05
    assert report.after.loss < 1e-5
    ports = report.model[0].device
    assert isinstance(ports, PortGains)
    assert torch.allclose(ports.inputs * a / (ports.inputs * a).mean(), torch.ones(6), atol=0.01)


def test_outputs_alone_where_the_device_is_not_linear():
    model = nn.Sequential(bp.PhysicalLayer(Matrix(6, 5)))
    b = 1 + 0.5 * torch.rand(5, generator=torch.Generator().manual_seed(0))
    report = bp.deploy(model, Declared(PortGains(Matrix(6, 5), torch.ones(6), b)), draw(120, 6, seed=2), steps=0)
    found = stages(report)["ports"]
    assert (found.kept, found.note) == (True, "outputs")
    assert torch.equal(report.model[0].device.inputs, torch.ones(6))


def test_batch_norms_are_brought_to_the_device():
    model = trained(norm=True).train()
    with torch.no_grad():
        for seed in range(20):
            model(draw(60, N, seed=seed))
    model.eval()
    gain = PortGains(MZIMesh(N, N), torch.ones(N), 1 + torch.rand(N, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        report = bp.deploy(model, {"0": Declared(gain)}, draw(400, N, seed=30), steps=0)
    assert report.after.loss < 0.05 * report.before.loss
    assert not report.model[1].training


@pytest.mark.parametrize(("device", "most"), [(LightModulator(N, 4), 0.02), (Microring(N, 4), 0.3)])
def test_response_curves_are_measured_where_the_settings_say_too_little(device, most):
    """Rings of less loss do not reach every weight of rings of more."""
    model = nn.Sequential(bp.PhysicalLayer(device))
    built = bp.devices.as_built(device, seed=3)
    report = bp.deploy(model, built, draw(120, N, seed=1))
    found = stages(report)["calibration"]
    assert found.kept, report
    assert "response curves" in found.note
    assert report.after.loss < most * report.before.loss


def test_a_chip_with_phases_anywhere_is_calibrated_by_its_design():
    model = nn.Sequential(bp.PhysicalLayer(MZIMesh(N, N)))
    built = bp.devices.as_built(MZIMesh(N, N), seed=3)
    report = bp.deploy(model, built, draw(160, N, seed=1))
    assert "design of the chip" in stages(report)["calibration"].note
    assert report.before.loss > 0.5
    assert report.after.loss < 0.01


def test_without_data_each_layer_is_judged_by_itself():
    report = bp.deploy(trained(), chips())
    assert report.after.loss < 0.1 * report.before.loss


def test_a_model_trained_with_a_twin_is_carried_from_chip_to_chip():
    torch.manual_seed(0)
    first = ImperfectMZIMesh(N, 4, phase=0.1, seed=1)
    twin = bp.surrogates.Twin(bp.twins.MeshTwin(first), fit_steps=0)
    model = nn.Sequential(bp.PhysicalLayer(first, bp.estimators.FromSurrogate(twin), twin))
    report = bp.deploy(model, ImperfectMZIMesh(N, 4, phase=0.1, seed=2), draw(120, N, seed=1))
    assert report.after.loss < 0.1 * report.before.loss


def test_the_deployed_model_trains_on():
    model = trained()
    report = bp.deploy(model, chips(), classes(model))
    x, target = classes(model)
    deployed = report.model.train()
    nn.functional.cross_entropy(deployed(x), target).backward()
    assert deployed[0].theta.grad is not None


# What is undone.


def test_a_stage_that_does_not_help_is_undone():
    """A copy without any error: nothing can be better than as written, and noise must not move it."""
    model = trained()
    exact = {"0": Noisy(MZIMesh(N, N), read=0.02), "2": Noisy(MZIMesh(N, 4), read=0.02)}
    report = bp.deploy(model, exact, draw(120, N, seed=1))
    assert not any(stage.kept for stage in report.stages[1:]), report
    assert torch.equal(report.model[0].theta, model[0].theta)
    assert torch.equal(report.model[0].gain, model[0].gain)
    assert report.after == report.before


def test_the_held_out_rows_decide(monkeypatch):
    """A stage that fits its own rows and harms all others is refused."""
    model = trained()
    from blackprop.deployment import _stages

    def spoil(self, work):
        work.layers[0].layer.theta.data.add_(1.0)
        return "spoilt"

    monkeypatch.setattr(_stages.Scales, "carry_out", spoil)
    report = bp.deploy(model, chips(noise=0.0), draw(120, N, seed=1), steps=0)
    assert not stages(report)["scales"].kept
    assert torch.equal(report.model[0].theta, model[0].theta)


# What it costs.


def test_costs_add_up_and_a_budget_holds():
    model = trained()
    x = draw(200, N, seed=5)
    report = bp.deploy(model, chips(), x)
    assert sum(stage.rows for stage in report.stages) == report.ledger.total_rows == bp.ledger(report.model).total_rows
    assert sum(stage.programmings for stage in report.stages) == report.ledger.total_programmings
    assert stages(report)["written"].rows == 2 * 100

    budget = bp.Budget(rows=stages(report)["written"].rows + stages(report)["ports"].rows + 30)
    short = bp.deploy(model, chips(), x, budget=budget)
    assert budget.spent["rows"] <= budget.limits["rows"]
    assert short.stages[-1].note == "not tried: the budget is spent"
    assert any(stage.note.startswith("undone: ") for stage in short.stages)
    assert short.after.loss <= short.before.loss
    with pytest.raises(BudgetExhausted):
        bp.deploy(model, chips(), x, budget=bp.Budget(rows=50))


def test_steps_are_at_most_as_many():
    report = bp.deploy(trained(), chips(), draw(200, N, seed=5), steps=2, calibrate=False)
    assert stages(report)["steps"].programmings <= 2 * 2 + 2  # two layers, and the settings of the evaluation
    assert "`calibrate=False`" in stages(report)["calibration"].note


# The file.


@pytest.fixture(scope="module")
def deployed():
    return bp.deploy(trained(), chips(), draw(200, N, seed=5), steps=1)


@pytest.fixture
def saved(deployed, tmp_path):
    return deployed, deployed.save(tmp_path / "chip")


def test_a_saved_deployment_gives_the_same_answers_elsewhere(saved):
    report, folder = copy.deepcopy(saved)
    elsewhere = trained()
    for parameter in elsewhere.parameters():
        parameter.data.add_(1.0)
    devices = chips(noise=0.0)
    made = load(folder, elsewhere, devices)
    assert bp.ledger(made).total_rows == 0
    x = draw(20, N, seed=9)
    with torch.no_grad():
        for layer, device in ((report.model[0], devices["0"]), (report.model[2], devices["2"])):
            ports, layer.device = layer.device, device
            if isinstance(ports, PortGains):
                layer.device = PortGains(device, ports.inputs, ports.outputs)
        assert torch.equal(made.eval()(x), report.model.eval()(x))
    assert load(folder, elsewhere, list(devices.values()))[0].gain == report.model[0].gain


def test_the_tensors_are_a_file_of_safetensors(saved):
    safetensors = pytest.importorskip("safetensors.torch")
    report, folder = saved
    found = safetensors.load_file(folder / "settings.safetensors")
    assert torch.equal(found["0.theta"], report.model[0].theta)
    assert "2.gain" in found
    description = json.loads((folder / "deployment.json").read_text())
    assert description["origin"]["torch"] == torch.__version__
    assert description["report"]["stages"][0]["name"] == "written"


def test_files_of_safetensors_are_read_with_every_type(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    from blackprop.deployment import _tensor_file

    some = {
        "a": torch.randn(2, 3),
        "b": torch.arange(4),
        "c": torch.tensor(True),
        "d": torch.zeros(0, 2, dtype=torch.float64),
        "e": torch.randn(3).bfloat16(),
    }
    (tmp_path / "f").write_bytes(_tensor_file.written(some))
    theirs, ours = safetensors.load_file(tmp_path / "f"), _tensor_file.parsed(safetensors.save(some))
    for name, value in some.items():
        assert torch.equal(theirs[name], value)
        assert torch.equal(ours[name], value)
        assert ours[name].dtype == value.dtype


@pytest.mark.parametrize("name", ["settings.safetensors", "deployment.json"])
@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_damaged_file_is_refused(saved, name, place):
    _, folder = saved
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum|damaged|does not hold|does not fit"):
        load(folder, trained(), chips())


def test_a_file_of_another_deployment_is_refused(saved, tmp_path):
    _, folder = saved
    with pytest.raises(CheckpointError, match="does not hold a deployment"):
        load(tmp_path / "none", trained(), chips())
    with pytest.raises(CheckpointError, match="does not fit"):
        load(folder, nn.Sequential(bp.PhysicalLayer(MZIMesh(6, 6)), nn.ReLU(), bp.PhysicalLayer(MZIMesh(6, 4))),
             [MZIMesh(6, 6), MZIMesh(6, 4)])  # fmt: skip
    with pytest.raises(CheckpointError, match="layers"):
        load(folder, trained(), {"0": MZIMesh(N, N)})
    with pytest.raises(CheckpointError, match="another model"):
        load(
            folder, nn.Sequential(bp.PhysicalLayer(MZIMesh(N, N)), nn.ReLU(), bp.PhysicalLayer(MZIMesh(N, 4))), chips()
        )
    (folder / "settings.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="checksum"):
        load(folder, trained(), chips())


# What is refused.


@pytest.mark.parametrize(
    ("devices", "error", "match"),
    [
        ({"1": MZIMesh(N, N)}, ArgumentError, "no physical layer"),
        ({}, ArgumentError, "no physical layer"),
        ([MZIMesh(N, N)], ArgumentError, "one device for each"),
        ({"0": MZIMesh(N, 6)}, IncompatibleError, "out_shape"),
        ({"0": Microring(N, N)}, IncompatibleError, "parameters"),
        ({"0": "laser"}, ArgumentError, "takes a Device"),
        (3, ArgumentError, "one device for each"),
    ],
)
def test_devices_that_do_not_fit_are_refused(devices, error, match):
    with pytest.raises(error, match=match):
        bp.deploy(trained(), devices, draw(40, N))


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (draw(3, N), {}, "at least 4 rows"),
        ((draw(8, N), torch.zeros(7)), {}, "a target for each"),
        ([1, 2, 3], {}, "as tensors"),
        (draw(8, N), {"steps": -1}, "steps"),
        (draw(8, N), {"budget": 3}, "Budget"),
        ((draw(8, N), torch.zeros(8, dtype=torch.int64)), {"loss": nn.functional.cross_entropy}, "loss of each of"),
    ],
)
def test_wrong_arguments_are_refused(data, options, match):
    with pytest.raises(ArgumentError, match=match):
        bp.deploy(trained(), chips(), data, **options)


def test_a_model_without_devices_is_refused():
    with pytest.raises(ArgumentError, match="from_linear"):
        bp.deploy(nn.Linear(3, 2), MZIMesh(4, 4), draw(8, 3))


def test_gains_of_another_number_are_refused():
    with pytest.raises(ShapeError, match="inputs"):
        PortGains(MZIMesh(N, 4), torch.ones(3), torch.ones(4))
