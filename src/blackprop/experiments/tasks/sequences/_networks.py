"""Networks of sequences with a reservoir layer in them: a dense one, and a transformer encoder."""

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
HEADS = 4  # of a transformer's blocks


class Architecture(enum.Enum):
    """`DENSE`: Linear, reservoir, readout. `TRANSFORMER`: encoder block, reservoir, encoder block, readout."""

    DENSE = "dense"
    TRANSFORMER = "transformer"


@dataclass(frozen=True)
class Sizes:
    """What a network is told of its task and its reservoir."""

    time: int
    channels: int  # of the sequences
    drives: int  # inputs of the reservoir at a step
    nodes: int  # outputs of the reservoir at a step
    outputs: int
    washout: int = 0  # steps at the start whose states are not read
    pooled: bool = False  # one output a sequence, from the mean of its states, in place of one a step

    def __post_init__(self) -> None:
        for name in ("time", "channels", "drives", "nodes", "outputs"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"`Sizes({name}=...)` must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.washout < self.time:
            raise ArgumentError(f"`Sizes(washout=...)` must be less than the {self.time} steps, got {self.washout}")


class ReservoirNetwork(nn.Module, abc.ABC):
    """Sequences `(B, time, channels)` to outputs `(B, time − washout, outputs)`, or pooled `(B, outputs)`.

    Sequences that differ in length come as `pad` makes them, `(B, time, channels + 1)`, and the last channel tells
    which steps are there; outputs at steps that are not there are zero. `readout` is linear in `features`, which are
    standardised by a batch norm, that a network in `eval()` before any training leaves as they are.
    """

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm = nn.BatchNorm1d(width)
        self.readout = nn.Linear(width, sizes.outputs)

    @abc.abstractmethod
    def states(self, x: Tensor, there: Tensor) -> Tensor:
        """What is read at every step, (B, time, width); `there` (B, time), bool."""

    def behind(self) -> list[nn.Parameter]:
        """The digital parameters that nothing reaches but through the reservoir: a loss has an exact gradient there."""
        gains = [module.gain for module in self.modules() if isinstance(module, PhysicalLayer)]
        return [*gains, *(p for module in (*self._behind(), self.norm, self.readout) for p in module.parameters())]

    def _behind(self) -> tuple[nn.Module, ...]:
        """Modules behind the reservoir, but for those that all networks have."""
        return ()

    def forward(self, x: Tensor) -> Tensor:
        x, there = self._parts(x)
        output = self.readout(self._features(x, there))
        if self.sizes.pooled:
            return output
        return output * there[:, self.sizes.washout :, None]

    def features(self, x: Tensor) -> Tensor:
        """What the readout is given: (B, time − washout, width), or pooled (B, width)."""
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
        """The sequences, zero where they have no step, and which steps they have."""
        sizes = self.sizes
        if not isinstance(x, Tensor) or x.is_nested:
            lengths = sorted({len(sequence) for sequence in x})
            raise ShapeError(
                f"sequences of {_listed(lengths)} steps came without a mask; `pad(sequences, {sizes.time})` makes one "
                "tensor of them that tells which steps are there"
            )
        if x.dim() != 3 or x.shape[1] != sizes.time or x.shape[2] not in (sizes.channels, sizes.channels + 1):
            raise ShapeError(
                f"this network takes sequences of {sizes.time} steps and {sizes.channels} channels, or with a mask in "
                f"one channel more, (B, {sizes.time}, {sizes.channels + 1}), as `pad` makes of shorter ones; got "
                f"{tuple(x.shape)}"
            )
        if x.shape[2] == sizes.channels:
            return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        there = x[..., -1] > 0
        return x[..., :-1] * there.unsqueeze(-1), there


class Dense(ReservoirNetwork):
    """Linear channels→drives at every step, the reservoir, the readout. As many drives as channels start as these."""

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
    """An encoder block, the reservoir, an encoder block; all that is read has passed the reservoir.

    A step attends to itself and to those before it, as the reservoir does: a prediction sees no future.
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
    """The network with `layer` for its reservoir, a transformer of `width`; digital weights from `seed` alone."""
    # torch's own initialisers draw from the global generator; it is lent to them and put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dense(sizes, layer) if architecture is Architecture.DENSE else Transformer(sizes, layer, width)


def pad(sequences: Sequence[Tensor], time: int | None = None) -> Tensor:
    """Sequences `(steps, channels)` of different lengths as one tensor `(B, time, channels + 1)`: zeros where one
    has ended, and in the last channel 1 at the steps that are there. By default as long as the longest.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or min(lengths) < 1:
        raise ShapeError("every sequence needs a step at least, and there must be one")
    time = max(lengths) if time is None else time
    if max(lengths) > time:
        raise ShapeError(f"a sequence of {max(lengths)} steps does not fit into {time}")
    if len({sequence.shape[1:] for sequence in sequences}) > 1 or sequences[0].dim() != 2:
        raise ShapeError("all sequences must be (steps, channels), of the same channels")
    out = sequences[0].new_zeros(len(lengths), time, sequences[0].shape[1] + 1)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence), :-1], row[: len(sequence), -1] = sequence, 1
    return out


def _block(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(width, HEADS, 2 * width, dropout=0.0, batch_first=True, norm_first=True)


def _listed(lengths: list[int]) -> str:
    *most, last = map(str, lengths)
    return f"{', '.join(most)} and {last}" if most else last
