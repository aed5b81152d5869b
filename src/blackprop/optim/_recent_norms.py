"""Batch-norm statistics from the last training batches, which were paid for already."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blackprop.errors import ArgumentError


class RecentNorms:
    """Gives every batch norm of a model the mean and the variance of its last training batches. Makes no queries.

    Running statistics, `r ← r + m (batch − r)` with m = 0.1, remember 20 batches and more. Where a training is short or
    θ moves fast, they lag behind the device, and a model in `eval()` is worse than the one that was trained. Here each
    norm keeps the statistics of its last `batches` training passes, and `apply` makes their mean its running one:

    `μ = Σ x / n`, `σ² = (Σ x² / n − μ²) n/(n − 1)`, over the n values of these passes.

    **Arguments:** `model`, whose batch norms are found; `batches`, how many passes count, 8 by default.

    Raises `ArgumentError` where the model has no batch norm with running statistics. As a context manager it applies
    them at the end of a block that does not raise:

    >>> import torch, blackprop as bp
    >>> model = torch.nn.Sequential(bp.PhysicalLayer(bp.devices.Matrix(4, 3)), torch.nn.BatchNorm1d(3))
    >>> with bp.optim.RecentNorms(model):
    ...     _ = model(torch.randn(16, 4))
    """

    def __init__(self, model: nn.Module, batches: int = 8) -> None:
        if batches < 1:
            raise ArgumentError(f"`RecentNorms(batches=...)` must be at least 1, got {batches}")
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not norms:
            raise ArgumentError("`RecentNorms(model=...)`: the model has no batch norm with running statistics")
        self._seen: dict[_BatchNorm, deque[tuple[Tensor, Tensor, int]]] = {m: deque(maxlen=batches) for m in norms}
        self._hooks = [norm.register_forward_pre_hook(self._record) for norm in norms]

    def apply(self) -> None:
        """Write the running statistics. Norms that have seen no training batch stay as they are."""
        for norm, seen in self._seen.items():
            if not seen:
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            n = sum(count for *_, count in seen)
            mean = torch.stack([total for total, _, _ in seen]).sum(0) / n
            # Within the batches, and of their means.
            spread = [centred + count * (total / count - mean).square() for total, centred, count in seen]
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(torch.stack(spread).sum(0) / max(1, n - 1))

    def remove(self) -> None:
        """Stop recording."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> RecentNorms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        if error is None:
            self.apply()

    @torch.no_grad()
    def _record(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not norm.training:
            return
        assert isinstance(norm, _BatchNorm)
        x = inputs[0].detach().double().transpose(0, 1).flatten(1)
        total = x.sum(1)
        centred = (x - x.mean(1, keepdim=True)).square().sum(1)
        self._seen[norm].append((total, centred, x.shape[1]))
