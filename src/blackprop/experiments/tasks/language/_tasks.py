"""Language modelled by a transformer with devices in the MLPs of its last blocks."""

from __future__ import annotations

import abc
from dataclasses import InitVar, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from blackprop._extras import install
from blackprop.errors import DataError, IncompatibleError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.records._text_files import is_companion
from blackprop.experiments.tasks._objectives import NextToken, Objective
from blackprop.experiments.tasks._task import Data, MakeLayer, Schedules, Size
from blackprop.experiments.tasks.language._gpt import GPT, DevicePlace
from blackprop.experiments.tasks.language._tokens import TextStream, Tokens, kept, preferred, windows
from blackprop.nn._substitute import param_groups

COOLDOWN = 0.29  # of the steps, over which the rates fall to zero: the last 1,450 of 5,000
VALIDATION = (
    10_485_760  # tokens at most: of a billion more would take longer to read than to train between two readings
)
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


@dataclass(frozen=True)
class TextPreset:
    """What a size means where nothing else is said."""

    blocks: int
    width: int
    heads: int
    context: int
    place: DevicePlace
    replaced: int
    trained_matrices: bool
    tokens: Tokens
    iterations: int
    batch_size: int
    lr: float
    muon_lr: float
    device_lr: float
    evaluate_every: int


_SETTINGS = (
    "place",
    "replaced",
    "trained_matrices",
    "tokens",
    "iterations",
    "batch_size",
    "lr",
    "muon_lr",
    "device_lr",
    "evaluate_every",
)
_PRESETS = {
    Size.PUBLISHED: TextPreset(
        12, 1536, 6, 1024, DevicePlace.FIRST_OF_MLP, 1, True, Tokens.GPT2, 5000, 320, 3.6e-3, 2e-2, 1e-2, 125
    ),
    Size.SMALL: TextPreset(2, 32, 1, 32, DevicePlace.MLP, 2, False, Tokens.BYTES, 500, 16, 3.6e-3, 2e-2, 3e-2, 100),
}


@dataclass(frozen=True)
class _Language(abc.ABC):
    """What tasks of language share: the network, its size and how it is trained."""

    size: Size = Size.SMALL
    """published: 12 blocks of width 1536, 6 heads, context 1024, for a GPU; small: 2 blocks of width 32, one head,
    context 32, for two cores."""
    place: DevicePlace | None = None
    """What a device stands for in the MLP. first-of-mlp: its first matrix, 1536→6144 (small 32→128), the published
    default; mlp: all of it, by one device 1536→1536 (small 32→32), the small default."""
    replaced: int | None = None
    """Blocks with a device, the last so many; published 1, 4, 8 or 12. By default 1, or small both."""
    trained_matrices: bool | None = None
    """Whether the digital matrices of the blocks are trained; by default published yes, small no: what is learnt is
    then the devices' and the embedding's. In a small network that trains them a random device costs next to nothing."""
    tokens: Tokens | None = None
    """bytes: 256 tokens; gpt2: GPT-2's 50,257. By default small bytes, published GPT-2's where tiktoken has them."""
    iterations: int | None = None
    """Optimizer steps; by default 5,000, or small 500."""
    batch_size: int | None = None
    """Windows a step, each of as many tokens as the context is long; by default 320, or small 16."""
    lr: float | None = None
    """AdamW's rate for the embedding and the devices' gains; like the other two constant, then falling to zero over the
    last 29 % of the steps. By default 3.6e-3."""
    muon_lr: float | None = None
    """Muon's rate for the matrices of the blocks; by default 2e-2."""
    device_lr: float | None = None
    """Adam's rate for the devices' settings; by default 1e-2, or small 3e-2."""
    evaluate_every: int | None = None
    """Steps between two evaluations; by default 125, or small 100."""

    def _resolve(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        if self.tokens is None and self.size is Size.PUBLISHED:
            object.__setattr__(self, "tokens", preferred())
        settings.resolve(self, _PRESETS[self.size], _SETTINGS)
        settings.between(self, "replaced", 1, self._settings.blocks, " blocks")
        settings.at_least(self, iterations=1, batch_size=1, evaluate_every=1)
        settings.rates(self, "lr", "muon_lr", "device_lr")

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @property
    def objective(self) -> Objective:
        return NextToken()

    @abc.abstractmethod
    def data(self) -> Data:
        """Windows of tokens (N, T), uint16, and the tokens that follow: the last tenth to validate on."""

    def steps(self, rows: int) -> int:
        del rows
        return self._settings.iterations

    def segment(self, rows: int) -> int:
        del rows
        return self._settings.evaluate_every

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        """The transformer with `layer(d_in, d_out)` in its last blocks; digital weights from `seed` alone."""
        given = self._settings
        # torch's own initialisers draw from the global generator; it is lent to them and put back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return GPT(
                given.tokens.vocabulary,
                given.width,
                given.blocks,
                given.heads,
                given.context,
                given.place,
                given.replaced,
                layer,
                given.trained_matrices,
            )

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The windows as they are."""
        del generator
        return x, y

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Muon for the matrices of the blocks; AdamW without weight decay for the embedding and the gains, and with
        Adam's own betas for θ, which stands among them so that `SignalScaled` has digital gradients to compare with.

        Muon is the published one: Nesterov momentum, five iterations of Newton and Schulz in bfloat16, steps
        `√max(1, rows/columns)` times the rate, no weight decay. torch averages gradients where that one sums them; what
        is made of either is the same.
        """
        if not hasattr(torch.optim, "Muon"):
            raise IncompatibleError(
                f"language is trained with `torch.optim.Muon`, which torch {torch.__version__} lacks"
            )
        given = self._settings
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices = [p for name, p in trained.items() if name.startswith("blocks.") and p.dim() == 2]
        others = {id(p) for p in trained.values()} - {id(p) for p in matrices}
        groups = param_groups(model, lr=given.lr, device_lr=given.device_lr)
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) in others]
        for group in groups[2:]:  # θ, after weights and gains
            group["betas"] = (0.9, 0.999)
        found: list[Optimizer] = [AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)]
        if matrices:
            found.append(
                torch.optim.Muon(matrices, lr=given.muon_lr, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original")
            )
        falling = max(1, round(COOLDOWN * steps))
        return [(each, LambdaLR(each, lambda step: min(1.0, (steps - step) / falling))) for each in found]

    @property
    def _settings(self) -> TextPreset:
        """The preset with what was given in its place."""
        return replace(_PRESETS[self.size], **{name: getattr(self, name) for name in _SETTINGS})

    @property
    def _data_dir(self) -> Path | None:
        return settings.folder(self)

    def _split(self, tokens: np.ndarray, source: str) -> Data:
        given = self._settings
        held = min(len(tokens) // 10, VALIDATION)
        x_train, y_train = windows(tokens[: len(tokens) - held], given.context)
        x_test, y_test = windows(tokens[len(tokens) - held :], given.context)
        if len(x_train) < given.batch_size or not len(x_test):
            raise DataError(
                f"{source} holds {len(tokens)} tokens ({given.tokens.value}), which make {len(x_train)} windows of "
                f"{given.context} to train on and {len(x_test)} to validate on; a batch is {given.batch_size}"
            )
        return Data(x_train, y_train, x_test, y_test)


@dataclass(frozen=True)
class Text(_Language):
    """Any plain text, its last tenth to validate on."""

    # No field: where the files lie decides no result, so a run can be resumed with them elsewhere.
    data_dir: InitVar[Path | None] = None
    """A plain text file, or a folder with files *.txt (or with text/ that holds them), read in the order of their
    names."""

    def __post_init__(self, data_dir: Path | None) -> None:
        self._resolve(data_dir)

    @property
    def name(self) -> str:
        return "text"

    def data(self) -> Data:
        files = self._files()
        tokens = [self._settings.tokens.of_file(path) for path in files]
        if empty := [str(path) for path, found in zip(files, tokens, strict=True) if not len(found)]:
            raise DataError(f"{', '.join(empty)}: there is no text in it")
        return self._split(np.concatenate(tokens), str(self._data_dir))

    def _files(self) -> list[Path]:
        given = self._data_dir
        if given is None:
            raise DataError(
                "text is read from a file or folder of yours: give it as `--data-dir`; for example that of "
                f"`curl -fL -o tinyshakespeare.txt {SHAKESPEARE}`"
            )
        if given.is_file():
            return [given]
        folders = (given, given / self.name)
        found = next((files for folder in folders if (files := _texts(folder))), [])
        if not found:
            raise DataError(f"`--data-dir {given}` is no file, and there is no *.txt in {folders[0]} or {folders[1]}")
        return found


@dataclass(frozen=True)
class FineWeb(_Language):
    """English web pages, of the sample of ten billion tokens of HuggingFaceFW/fineweb: as many as the steps take, each
    met once, and a tenth of all (at most 10,485,760 tokens) to validate on.
    """

    # No field: where the files lie decides no result, so a run can be resumed with them elsewhere.
    data_dir: InitVar[Path | None] = None
    """The folder that keeps the tokens, 2 bytes each: published 3.3 GB; by default the user's cache."""

    def __post_init__(self, data_dir: Path | None) -> None:
        self._resolve(data_dir)

    @property
    def name(self) -> str:
        return "fineweb"

    def data(self) -> Data:
        given, folder = self._settings, self._folder()
        trained = given.iterations * given.batch_size * given.context + 1
        wanted = trained + min(trained // 9, VALIDATION)
        return self._split(kept(folder, given.tokens, wanted, _fineweb), str(folder))

    def _folder(self) -> Path:
        if self._data_dir is not None:
            return self._data_dir
        try:
            import pooch  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise DataError(f"FineWeb is kept by pooch: {install('recipes')}, or give `--data-dir`") from error
        return Path(pooch.os_cache("blackprop")) / self.name


def _fineweb() -> TextStream:
    try:
        from datasets import load_dataset  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise DataError("FineWeb is streamed by Hugging Face datasets: pip install datasets") from error
    return load_dataset("HuggingFaceFW/fineweb", "sample-10BT", split="train", streaming=True)


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not is_companion(path))
