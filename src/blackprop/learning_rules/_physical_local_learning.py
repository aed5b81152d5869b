"""Physical local learning: every layer learns by itself to separate true labels from wrong ones, from two rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.nn._layer import PhysicalLayer

TINY = 1e-8  # avoids a division by the length of a row of zeros


@final
class PhysicalLocalLearning(nn.Module):
    """A stack of physical layers, each with a digital matrix P_l behind it that learns from its own layer alone:

    `h'_l = P_l [f_l(h_l) ‖ h_l] + b_l`, `h_{l+1} = |h'_l| / rms|h'_l|`, with the goodness `g_l = cos(|h'_l|, p_l)` for
    a fixed random p_l.

    The label is written into the row: the first `classes` entries are its one-hot code times `amplitude`. (If images
    need all their pixels, put as many zeros before them.) The goodness of the true label should exceed that of a wrong
    one, drawn anew at every visit:

    `L_l = mean log(1 + exp(−κ (g_l⁺ − g_l⁻)))`. Gradients pass neither through f_l nor between layers.

    The prediction is the label with the largest `Σ_l g_l`. The settings θ of the devices do not change: only the P_l
    have gradients, and any optimizer makes the step.

    **Costs** exactly 2 rows a layer, sample and visit of a batch (`FORWARD`), however many inner steps use them, and no
    programming; to predict, `classes` rows a layer and sample (`EVALUATE`, in `eval()`).

    **Arguments:**

    - `layers`: from vectors to vectors.
    - `classes`: number of labels.
    - `width`: of the last h'; the others have the width of the next device's input.
    - `generator`: draws P, p and the wrong labels.
    - `sharpness` (default 4): κ.
    - `amplitude` (default 1): of the label's code.

    Source: Momeni et al., Science 382, 1297 (2023). Here h is scaled to rms 1 between layers, since cosines leave its
    length free and devices do not.
    """

    classes: int
    sharpness: float
    amplitude: float

    def __init__(
        self,
        layers: Sequence[PhysicalLayer],
        classes: int,
        width: int,
        *,
        generator: torch.Generator,
        sharpness: float = 4.0,
        amplitude: float = 1.0,
    ) -> None:
        super().__init__()
        _check_layers(layers)
        if not 2 <= classes <= layers[0].in_shape[0]:
            raise IncompatibleError(
                f"{classes} labels do not fit: they take the first entries of a row, of which {layers[0].device} has "
                f"{layers[0].in_shape[0]}, and there must be 2 at least"
            )
        for name, value in (("width", width), ("sharpness", sharpness), ("amplitude", amplitude)):
            if not 0 < value < math.inf:
                raise ArgumentError(f"`PhysicalLocalLearning({name}=...)` must be positive and finite, got {value}")
        self.stack: tuple[PhysicalLayer, ...] = tuple(layers)
        self.layers: nn.ModuleList = nn.ModuleList(layers)
        self.classes, self.sharpness, self.amplitude = classes, sharpness, amplitude
        self._generator = generator
        outputs = [*(layer.in_shape[0] for layer in layers[1:]), width]
        inputs = [layer.out_shape[0] + layer.in_shape[0] for layer in layers]
        self._matrices = tuple(_linear(*size, generator) for size in zip(inputs, outputs, strict=True))
        self.digital: nn.ModuleList = nn.ModuleList(self._matrices)
        for number, size in enumerate(outputs):
            self.register_buffer(f"p_{number}", torch.randn(size, generator=generator, device=generator.device).cpu())

    def written(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the rows x (B, d_in) with these labels (B,) in their first entries."""
        self._check(x, labels)
        codes = self.amplitude * F.one_hot(labels, self.classes).to(x)
        return torch.cat((codes, x[:, self.classes :]), 1)

    def visit(self, x: Tensor, labels: Tensor, inner: int = 1) -> Iterator[Tensor]:
        """Visit a batch: read layer after layer, and `inner` times fill its `.grad` and yield its loss.

        `for _ in rule.visit(x, y, inner=5): optimizer.step(); optimizer.zero_grad()` makes all steps; the next layer
        gets the result of the last one.
        """
        if inner < 1:
            raise ArgumentError(f"`visit(inner=...)` must be at least 1, got {inner}")
        self._check(x, labels)
        shift = torch.randint(1, self.classes, labels.shape, generator=self._generator, device=self._generator.device)
        wrong = (labels + shift.to(labels)) % self.classes
        h = torch.cat((self.written(x, labels), self.written(x, wrong)))
        for number in range(len(self.stack)):
            features = self._read(number, h)
            for _ in range(inner):
                with torch.enable_grad():
                    true, false = self._goodness(number, self._answer(number, features)).chunk(2)
                    loss = F.softplus(-self.sharpness * (true - false)).mean()
                loss.backward()
                yield loss.detach()
            h = self._passed_on(self._answer(number, features))

    def backward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of all layers' losses to `.grad`, from one visit; return the mean loss."""
        return torch.stack(list(self.visit(x, labels))).mean()

    @torch.no_grad()
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the goodness (B,) of these labels, summed over the layers."""
        h, total = self.written(x, labels), torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for number in range(len(self.stack)):
            answer = self._answer(number, self._read(number, h))
            total = total + self._goodness(number, answer)
            h = self._passed_on(answer)
        return total

    def predict(self, x: Tensor) -> Tensor:
        """Return the labels (B,) with the largest goodness."""
        candidates = torch.arange(self.classes, device=x.device)
        return torch.stack([self(x, label.expand(len(x))) for label in candidates], -1).argmax(-1)

    @torch.no_grad()
    def _read(self, number: int, h: Tensor) -> Tensor:
        """Read [f(h) ‖ h]: the only query of a device, without autograd."""
        return torch.cat((self.stack[number](h), h), -1)

    def _answer(self, number: int, features: Tensor) -> Tensor:
        return self._matrices[number](features).abs()

    def _goodness(self, number: int, answer: Tensor) -> Tensor:
        return F.cosine_similarity(answer, self.get_buffer(f"p_{number}"), dim=-1)

    def _passed_on(self, answer: Tensor) -> Tensor:
        answer = answer.detach()
        return answer / answer.square().mean(-1, keepdim=True).sqrt().clamp_min(TINY)

    def _check(self, x: Tensor, labels: Tensor) -> None:
        if x.dim() != 2 or x.shape[1:] != self.stack[0].in_shape or labels.shape != x.shape[:1]:
            raise ShapeError(
                f"rows (B, {self.stack[0].in_shape[0]}) with as many labels are taken, got {tuple(x.shape)} and "
                f"{tuple(labels.shape)}"
            )
        whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
        if not whole or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes):
            raise ShapeError(f"labels are whole numbers from 0 to {self.classes - 1}")


def _check_layers(layers: Sequence[PhysicalLayer]) -> None:
    if not layers or not all(isinstance(layer, PhysicalLayer) for layer in layers):
        raise ArgumentError(f"`PhysicalLocalLearning(layers, ...)` takes at least one PhysicalLayer, got {layers!r}")
    for layer in layers:
        if len(layer.in_shape) > 1 or len(layer.out_shape) > 1:
            raise IncompatibleError(f"physical local learning goes from vectors to vectors; {layer.device} does not")


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Draw a Linear as torch does, from this generator."""
    linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # the global stream is not used
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for value in (linear.weight, linear.bias):
            value.copy_((2 * torch.rand(value.shape, generator=generator, device=generator.device) - 1) * bound)
    return linear
