"""A model with a physical layer in the frameworks that people train with: saved, averaged, killed and resumed exactly.

Devices are noisy, so a resumed run is exact only where the stream of their noise is restored as well.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import blackprop as bp
from support import draw


class Net(nn.Module):
    def __init__(self, device: bp.Device | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        device = device or bp.devices.Noisy(bp.devices.LightModulator(6, 4), read=0.05)
        self.first, self.optics, self.last = nn.Linear(5, 6), bp.PhysicalLayer(device), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.optics(torch.tanh(self.first(x))))


def linear_net() -> Net:
    """Around a device without element coupling: perturbed and remembered."""
    return Net(bp.devices.Noisy(bp.devices.LowRank(6, 4, rank=2), read=0.05))


DATA = TensorDataset(draw(48, 5), draw(48, 2, seed=1))
BUILD = [Net, linear_net]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(bp.param_groups(model, lr=1e-2, device_lr=3e-2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: range) -> None:
    for number in batches:
        x, target = DATA[8 * number % 48 : 8 * number % 48 + 8]
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert bp.ledger(ours) == bp.ledger(theirs)


@pytest.mark.parametrize("build", BUILD)
def test_safetensors_keep_everything(build, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = build()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(4))
    safetensors.save_file(model.state_dict(), tmp_path / "state")
    safetensors.save_model(model, str(tmp_path / "model"))
    moments = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(4, 8))
    for load in (
        lambda m: m.load_state_dict(safetensors.load_file(tmp_path / "state")),
        lambda m: safetensors.load_model(m, str(tmp_path / "model")),
    ):
        other = build()
        train(other, optimizer_of(other), range(2))  # whatever it did before is forgotten
        load(other)
        again = optimizer_of(other)
        again.load_state_dict(copy.deepcopy(moments))
        train(other, again, range(4, 8))
        assert_same(model, other)


@pytest.mark.parametrize("build", BUILD)
def test_accelerate_resumes_exactly(build, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    whole = accelerate.Accelerator(cpu=True)
    model = build()
    model, optimizer = whole.prepare(model, optimizer_of(model))
    train(model, optimizer, range(4))
    whole.save_state(str(tmp_path))
    train(model, optimizer, range(4, 8))
    other = build()
    other, again = whole.prepare(other, optimizer_of(other))
    whole._models, whole._optimizers = [other], [again]
    whole.load_state(str(tmp_path))
    train(other, again, range(4, 8))
    assert_same(model, other)


@pytest.mark.parametrize("build", BUILD)
@pytest.mark.parametrize("buffers", [False, True])
def test_a_weight_average_evaluates_and_counts_for_itself(build, buffers):
    model = build()
    average = AveragedModel(model, use_buffers=buffers)
    optimizer = optimizer_of(model)
    thetas = []
    for number in range(4):
        train(model, optimizer, range(number, number + 1))
        average.update_parameters(model)
        thetas.append(model.optics.theta.detach().clone())
    torch.testing.assert_close(average.module.optics.theta.detach(), torch.stack(thetas).mean(0))
    asked = model.optics.ledger.total_rows
    average.eval()(draw(3, 5))
    assert model.optics.ledger.total_rows == asked
    assert bp.ledger(average).total_rows == 3


def test_an_exponential_average_copies_entry_by_entry():
    """As timm's ModelEmaV3 does, without timm: every entry of the state is averaged or copied in place."""
    model = Net()
    average = copy.deepcopy(model)
    optimizer = optimizer_of(model)
    for number in range(3):
        train(model, optimizer, range(number, number + 1))
        for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            assert ours.shape == theirs.shape
            if ours.is_floating_point():
                ours.lerp_(theirs, 0.1)
            else:
                ours.copy_(theirs)
    assert average.eval()(draw(3, 5)).shape == (3, 2)


def test_timm_averages(tmp_path):
    utils = pytest.importorskip("timm.utils", reason="timm needs torchvision")
    model = Net()
    average = utils.ModelEmaV3(model, decay=0.9)
    train(model, optimizer_of(model), range(3))
    average.update(model)
    assert average.module.eval()(draw(3, 5)).shape == (3, 2)


def _trainer(transformers, folder, steps, model=None):
    """The Trainer of transformers, with the library's parameter groups as its optimizer."""

    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model if model is not None else Net()

        def forward(self, x, labels=None):
            y = self.net(x)
            return {"loss": (y - labels).square().mean(), "logits": y}

    scored = Scored()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        save_steps=4,
        logging_steps=100,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
    )
    rows = [{"x": x, "labels": y} for x, y in DATA]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer := optimizer_of(scored), lambda step: 1.0)
    return transformers.Trainer(model=scored, args=arguments, train_dataset=rows, optimizers=(optimizer, schedule))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_transformers_trainer_resumes_exactly(tmp_path):
    transformers = pytest.importorskip("transformers")
    whole = _trainer(transformers, tmp_path / "whole", 8)
    whole.train()
    cut = _trainer(transformers, tmp_path / "whole", 8)
    cut.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert_same(whole.model, cut.model)
    assert whole.model.net.optics.ledger.total_rows >= 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_pretrained_model_is_saved_and_loaded(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):
        model_type = "optical"

    class Pretrained(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config) -> None:
            super().__init__(config)
            self.net = Net()
            self.post_init()

        def _init_weights(self, module) -> None:
            del module

    model = Pretrained(Config())
    train(model.net, optimizer_of(model), range(4))
    model.save_pretrained(tmp_path)
    other = Pretrained.from_pretrained(tmp_path)
    assert torch.equal(other.net.optics.theta, model.net.optics.theta)
    assert_same(model.net, other.net)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_peft_trains_and_saves_a_physical_layer_beside_its_adapters(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(Net(), peft.LoraConfig(target_modules=["first"], modules_to_save=["optics"], r=2))
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    train(model, optimizer_of(model), range(4))
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    model.save_pretrained(str(tmp_path))
    other = peft.PeftModel.from_pretrained(Net(), str(tmp_path))
    trained, loaded = (
        {n: p for n, p in m.named_parameters() if "optics" in n and "default" in n} for m in (model, other)
    )
    assert trained.keys() == loaded.keys() != set()
    assert all(torch.equal(trained[name], loaded[name]) for name in trained)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", BUILD)
def test_lightning_resumes_exactly_whatever_it_evaluates(build, tmp_path):
    """The sanity check before training reads rows that a resumed run does not: evaluation has a stream of its own."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def training_step(self, batch):
            x, target = batch
            return (self.net(x) - target).square().mean()

        def validation_step(self, batch):
            x, target = batch
            self.log("loss", (self.net(x) - target).square().mean())

        def configure_optimizers(self):
            return optimizer_of(self.net)

    def fit(module, epochs, checkpoint=None):
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=2,
        )
        trainer.fit(module, DataLoader(DATA, 8), DataLoader(DATA, 16), ckpt_path=checkpoint)
        return trainer

    whole, cut, resumed = Module(), Module(), Module()
    last = fit(whole, 2).callback_metrics["loss"]
    fit(cut, 1).save_checkpoint(tmp_path / "cut.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = fit(resumed, 2, str(tmp_path / "cut.ckpt")).callback_metrics["loss"]
    for name in ("first.weight", "optics.theta", "optics.gain", "last.bias"):
        assert torch.equal(whole.net.state_dict()[name], resumed.net.state_dict()[name]), name
    assert torch.equal(last, again)
