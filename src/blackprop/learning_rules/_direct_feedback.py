"""Direct feedback alignment: the output error reaches every hidden layer at once, through fixed random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger
from blackprop.core._metered import metered
from blackprop.core._probes import signed
from blackprop.core._procedure import ask, run
from blackprop.core._query import Purpose, Query
from blackprop.devices import Device
from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.nn._layer import PhysicalLayer

Loss = Callable[[Tensor, Tensor], Tensor]


@final
class DirectFeedback:
    """Fills `.grad` of a stack of layers h_l = f_l(h_{l−1}) from the error at its output, `e = ∂L/∂h_L` `(B, n_L)`:

    `∂L/∂h_l ← (e B)[:, :n_l]` for every hidden layer, and the true gradient for the last layer,

    with one feedback matrix B `(n_L, widest)` for all, of which a narrower layer takes the first columns. Within a
    layer the gradient is that of the layer alone, at its actual input: the derivative of its activation is exact, and a
    `PhysicalLayer` uses its estimator. Its surrogate makes no queries, since gradients do not pass between layers.

    A layer begins at each module of the stack that is physical or has weights of two dimensions or more; activations
    and norms that follow belong to it. B is a matrix (`random_feedback` draws the usual one) or a linear `Device` of
    unknown matrix, such as a `ScatteringMedium`: `B = f(·; θ₀) / √d_out`, θ₀ its first setting.

    **Costs** the queries of the layers' forward passes and estimators, in their own ledgers; with an optical B one row
    of it for each row of the batch, and one programming in all, in `ledger`.

    **Arguments:**

    - `model`: the stack.
    - `feedback`: B, a matrix (n_L, widest) or a device.
    - `loss` (default cross-entropy): of outputs and targets.
    - `budget` (default None): of an optical B.
    - `generator` (default: seed 0): draws θ₀.

    **Raises** `IncompatibleError` for a device that is not linear; `backward` raises `ShapeError` for too small a B.

    Source: Nøkland, NIPS 2016 (arXiv 1609.01596); optical, Launay et al., arXiv 2012.06373.
    """

    feedback: Device | Tensor
    loss: Loss
    budget: Budget | None

    def __init__(
        self,
        model: nn.Sequential,
        feedback: Tensor | Device,
        *,
        loss: Loss = F.cross_entropy,
        budget: Budget | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(model, nn.Sequential):
            raise ArgumentError(
                f"`DirectFeedback(model, ...)` takes a Sequential of layers, got {type(model).__name__}"
            )
        self.layers: list[nn.Sequential] = _layers(model)
        if len(self.layers) < 2:
            raise ArgumentError(f"`DirectFeedback(model, ...)` needs a hidden layer; this model has {len(self.layers)}")
        if isinstance(feedback, Device):
            if not feedback.linear or len(feedback.in_shape) > 1 or len(feedback.out_shape) > 1:
                raise IncompatibleError(f"`feedback` must be linear, from vectors to vectors; {feedback} is not")
            self.size = feedback.declaration.d_in, feedback.declaration.d_out
            start = generator if generator is not None else torch.Generator().manual_seed(0)
            self._theta = feedback.theta.draw(start)
        elif isinstance(feedback, Tensor) and feedback.dim() == 2:
            self.size: tuple[int, int] = feedback.shape[0], feedback.shape[1]
        else:
            raise ArgumentError(f"`DirectFeedback(feedback=...)` takes a matrix or a Device, got {feedback!r}")
        self.feedback, self.loss, self.budget = feedback, loss, budget
        self.ledger: Ledger = Ledger()

    def backward(self, x: Tensor, target: Tensor) -> Tensor:
        """Add the gradients for inputs x and targets to the parameters' `.grad`; return the loss."""
        outputs: list[Tensor] = []
        with torch.enable_grad():
            for layer in self.layers:
                x = layer(x.detach())
                outputs.append(x)
            last = outputs[-1].detach().requires_grad_()
            loss = self.loss(last, target)
        (error,) = torch.autograd.grad(loss, last)
        self._check(error, outputs[:-1])
        fed_back = self._project(error.flatten(1))
        for h in outputs[:-1]:
            _credit(h, fed_back[:, : h[0].numel()].reshape(h.shape))
        _credit(outputs[-1], error)
        return loss.detach()

    def _check(self, error: Tensor, hidden: list[Tensor]) -> None:
        widest = max(h[0].numel() for h in hidden)
        if error[0].numel() != self.size[0] or widest > self.size[1]:
            raise ShapeError(
                f"a model of {error[0].numel()} outputs and {widest} units in its widest hidden layer needs a feedback "
                f"of ({error[0].numel()}, {widest}) or wider, got {self.size}"
            )

    @torch.no_grad()
    def _project(self, error: Tensor) -> Tensor:
        """Return the errors sent back, e B `(B, widest)`."""
        if isinstance(self.feedback, Tensor):
            return error @ self.feedback.to(error)
        # Sent at the drive of a unit row: errors shrink during training, and the noise of detectors does not.
        drive = error.square().mean().sqrt()
        if not bool(drive > 0):
            return error.new_zeros(len(error), self.size[1])
        probes = signed(self.feedback.declaration, error / drive)
        query = Query(probes.rows, self._theta.to(error), Purpose.SURROGATE)
        (read,) = run(ask(query), metered(self.feedback, self.ledger, self.budget))
        return probes.products(read) * drive / math.sqrt(self.size[1])


def random_feedback(outputs: int, widest: int, generator: torch.Generator) -> Tensor:
    """Draw B `(outputs, widest)` ~ U(−1, 1) / √widest."""
    if min(outputs, widest) < 1:
        raise ArgumentError(f"`random_feedback` takes sizes of at least 1, got {outputs} and {widest}")
    drawn = torch.rand(outputs, widest, generator=generator, device=generator.device)
    return (2 * drawn - 1) / math.sqrt(widest)


def _layers(model: nn.Sequential) -> list[nn.Sequential]:
    """Cut the stack before each module that begins a layer."""
    parts: list[list[nn.Module]] = [[]]
    begun = False
    for module in model:
        if _begins(module):
            if begun:
                parts.append([])
            begun = True
        parts[-1].append(module)
    return [nn.Sequential(*part) for part in parts] if begun else []


def _begins(module: nn.Module) -> bool:
    physical = any(isinstance(part, PhysicalLayer) for part in module.modules())
    return physical or any(weights.dim() > 1 for weights in module.parameters())


def _credit(output: Tensor, grad: Tensor) -> None:
    """Add a layer's own gradient, if it is trained."""
    if output.requires_grad:
        output.backward(grad)
