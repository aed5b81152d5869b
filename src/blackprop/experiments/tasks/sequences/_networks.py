"""Networks for sequences with a reservoir layer: a dense network and a transformer encoder."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError, ShapeError
from blackprop.nn._layer import PhysicalLayer

# ((time, drives), (time, nodes)) -> the layer that maps (B, time, drives) to (B, time, nodes); a row of its device is
# a whole sequence.
MakeReservoir = Callable[[tuple[int, int], tuple[int, int]], nn.Module]
HEADS = 4  # of the transformer blocks


class Architecture(enum.Enum):
    """`DENSE`: Linear, reservoir, readout. `TRANSFORMER`: encoder block, reservoir, encoder block, readout."""

    DENSE = "dense"
    TRANSFORMER = "transformer"


@dataclass(frozen=True)
class Sizes:
    """The sizes of the task and of the reservoir."""

    time: int
    channels: int  # of the sequences
    drives: int  # inputs of the reservoir at a step
    nodes: int  # outputs of the reservoir at a step
    outputs: int
    washout: int = 0  # steps at the start whose states are not used
    pooled: bool = False  # one output per sequence, from the mean of its states, in place of one per step

    def __post_init__(self) -> None:
        for name in ("time", "channels", "drives", "nodes", "outputs"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"`Sizes({name}=...)` must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.washout < self.time:
            raise ArgumentError(f"`Sizes(washout=...)` must be less than the {self.time} steps, got {self.washout}")


class ReservoirNetwork(nn.Module, abc.ABC):
    """Map sequences `(B, time, channels)` to outputs `(B, time − washout, outputs)`, or pooled `(B, outputs)`.

    Sequences of different lengths must be padded by `pad` to `(B, time, channels + 1)`. The last channel marks the
    steps that exist. Outputs at other steps are zero. `readout` is linear in `features`, which a batch norm
    standardises. In `eval()` before any training, the batch norm has no effect.
    """

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm = nn.BatchNorm1d(width)
        self.readout = nn.Linear(width, sizes.outputs)

    @abc.abstractmethod
    def states(self, x: Tensor, there: Tensor) -> Tensor:
        """Return the states at every step, (B, time, width). `there` (B, time), bool, marks the existing steps."""

    def behind(self) -> list[nn.Parameter]:
        """Return the digital parameters behind the reservoir, for which autograd gives the exact gradient of a loss."""
        gains = [module.gain for module in self.modules() if isinstance(module, PhysicalLayer)]
        return [*gains, *(p for module in (*self._behind(), self.norm, self.readout) for p in module.parameters())]

    def _behind(self) -> tuple[nn.Module, ...]:
        """Return the modules behind the reservoir that only this network has."""
        return ()

    def forward(self, x: Tensor) -> Tensor:
        x, there = self._parts(x)
        output = self.readout(self._features(x, there))
        if self.sizes.pooled:
            return output
        return output * there[:, self.sizes.washout :, None]

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the readout: (B, time − washout, width), or pooled (B, width)."""
        return self._features(*self._parts(x))

    def _features(self, x: Tensor, there: Tensor) -> Tensor:
        states, there = self.states(x, there)[:, self.sizes.washout :], there[:, self.sizes.washout :]
        if self.sizes.pooled:
            weights = there / there.sum(1, keepdim=True).clamp(min=1)
            return self.norm((weights.unsqueeze(-1) * states).sum(1))
        out = torch.zeros_like(states)
        out[there] = self.norm(states[there])
        return out

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sequences, zero at steps that do not exist, and the mask of existing steps."""
        sizes = self.sizes
        if not isinstance(x, Tensor) or x.is_nested:
            lengths = sorted({len(sequence) for sequence in x})
            raise ShapeError(
                f"sequences of {_listed(lengths)} steps came without a mask; use `pad(sequences, {sizes.time})`, which "
                "returns one tensor with a mask"
            )
        if x.dim() != 3 or x.shape[1] != sizes.time or x.shape[2] not in (sizes.channels, sizes.channels + 1):
            raise ShapeError(
                f"this network needs sequences of {sizes.time} steps and {sizes.channels} channels, or with a mask in "
                f"one more channel, (B, {sizes.time}, {sizes.channels + 1}), as returned by `pad`; got "
                f"{tuple(x.shape)}"
            )
        if x.shape[2] == sizes.channels:
            return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        there = x[..., -1] > 0
        return x[..., :-1] * there.unsqueeze(-1), there


class Dense(ReservoirNetwork):
    """A Linear channels→drives at every step, the reservoir, the readout. If there are as many drives as channels, the
    Linear starts as the identity.
    """

    def __init__(self, sizes: Sizes, layer: MakeReservoir) -> None:
        super().__init__(sizes, sizes.nodes)
        self.drive = nn.Linear(sizes.channels, sizes.drives)
        if sizes.channels == sizes.drives:
            nn.init.eye_(self.drive.weight)
            nn.init.zeros_(self.drive.bias)
        self.reservoir = layer((sizes.time, sizes.drives), (sizes.time, sizes.nodes))

    def states(self, x: Tensor, there: Tensor) -> Tensor:
        return self.reservoir(self.drive(x) * there.unsqueeze(-1))


class Transformer(ReservoirNetwork):
    """An encoder block, the reservoir, an encoder block. There is no path around the reservoir.

    A step attends only to itself and to earlier steps, so a prediction cannot use the future.
    """

    def __init__(self, sizes: Sizes, layer: MakeReservoir, width: int = 32) -> None:
        super().__init__(sizes, width)
        self.embed = nn.Linear(sizes.channels, width)
        self.places = nn.Parameter(0.02 * torch.randn(sizes.time, width))
        self.before = _block(width)
        self.drive = nn.Linear(width, sizes.drives)
        self.reservoir = layer((sizes.time, sizes.drives), (sizes.time, sizes.nodes))
        self.back = nn.Sequential(nn.LayerNorm(sizes.nodes), nn.Linear(sizes.nodes, width))
        self.after = _block(width)

    def _behind(self) -> tuple[nn.Module, ...]:
        return self.back, self.after

    def states(self, x: Tensor, there: Tensor) -> Tensor:
        future = torch.ones(self.sizes.time, self.sizes.time, dtype=torch.bool, device=x.device).triu(1)
        x = self.before(self.embed(x) + self.places, src_mask=future, src_key_padding_mask=~there)
        x = self.back(self.reservoir(self.drive(x) * there.unsqueeze(-1)))
        return self.after(x + self.places, src_mask=future, src_key_padding_mask=~there)


def build(
    architecture: Architecture, sizes: Sizes, layer: MakeReservoir, seed: int, width: int = 32
) -> ReservoirNetwork:
    """Build the network with `layer` as its reservoir. `width` is that of the transformer. The digital weights depend
    only on `seed`.
    """
    # The initialisers of torch draw from the global generator, which is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dense(sizes, layer) if architecture is Architecture.DENSE else Transformer(sizes, layer, width)


def pad(sequences: Sequence[Tensor], time: int | None = None) -> Tensor:
    """Pad sequences `(steps, channels)` of different lengths with zeros to one tensor `(B, time, channels + 1)`.

    The last channel is 1 at the steps that exist. `time` is by default the longest length. Raises `ShapeError` for
    sequences that are empty, too long or of different channels.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or min(lengths) < 1:
        raise ShapeError("there must be at least one sequence, each with at least one step")
    time = max(lengths) if time is None else time
    if max(lengths) > time:
        raise ShapeError(f"a sequence of {max(lengths)} steps does not fit into {time}")
    if len({sequence.shape[1:] for sequence in sequences}) > 1 or sequences[0].dim() != 2:
        raise ShapeError("all sequences must be (steps, channels), with the same channels")
    out = sequences[0].new_zeros(len(lengths), time, sequences[0].shape[1] + 1)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence), :-1], row[: len(sequence), -1] = sequence, 1
    return out


def _block(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(width, HEADS, 2 * width, dropout=0.0, batch_first=True, norm_first=True)


def _listed(lengths: list[int]) -> str:
    *most, last = map(str, lengths)
    return f"{', '.join(most)} and {last}" if most else last
