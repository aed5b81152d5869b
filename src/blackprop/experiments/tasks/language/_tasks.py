"""Language models: a transformer with devices in the MLPs of its last blocks."""

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

COOLDOWN = 0.29  # share of the steps in which the rates fall to zero: the last 1,450 of 5,000
VALIDATION = (
    10_485_760  # tokens at most: with more, an evaluation would take longer than the training between two of them
)
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


@dataclass(frozen=True)
class TextPreset:
    """The default settings of a size."""

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
    """The common parts of language tasks: the network, its size and its training."""

    size: Size = Size.SMALL
    """published: 12 blocks of width 1536, 6 heads, context 1024, for a GPU. small: 2 blocks of width 32, one head,
    context 32, for two CPU cores."""
    place: DevicePlace | None = None
    """The part of the MLP that a device replaces. first-of-mlp (the published default): the first matrix, 1536→6144, or
    32→128 at the small size. mlp (the small default): the whole MLP, by one device 1536→1536, or 32→32."""
    replaced: int | None = None
    """Number of blocks with a device, from the last one; published 1, 4, 8 or 12. By default 1, or 2 at the small
    size."""
    trained_matrices: bool | None = None
    """Whether the digital matrices of the blocks are trained. By default yes, or no at the small size, where a network
    with trained matrices learns almost as well with random devices."""
    tokens: Tokens | None = None
    """bytes: 256 tokens. gpt2: the 50,257 tokens of GPT-2. By default gpt2 if tiktoken has them, or bytes at the small
    size."""
    iterations: int | None = None
    """Optimizer steps. By default 5,000, or 500 at the small size."""
    batch_size: int | None = None
    """Windows per step, each as long as the context. By default 320, or 16 at the small size."""
    lr: float | None = None
    """AdamW's rate for the embedding and the gains of the devices. All three rates are constant at first, and fall to
    zero over the last 29 % of the steps. By default 3.6e-3."""
    muon_lr: float | None = None
    """Muon's rate for the matrices of the blocks. By default 2e-2."""
    device_lr: float | None = None
    """Adam's rate for the settings of the devices. By default 1e-2, or 3e-2 at the small size."""
    evaluate_every: int | None = None
    """Steps between two evaluations. By default 125, or 100 at the small size."""

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
        """Return windows of tokens (N, T), uint16, and the next tokens. The last tenth is for validation."""

    def steps(self, rows: int) -> int:
        del rows
        return self._settings.iterations

    def segment(self, rows: int) -> int:
        del rows
        return self._settings.evaluate_every

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        """Build the transformer with `layer(d_in, d_out)` in its last blocks. Digital weights depend only on `seed`."""
        given = self._settings
        # The initialisers of torch draw from the global generator, which is restored afterwards.
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
        """Return the windows unchanged."""
        del generator
        return x, y

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Return Muon for the matrices of the blocks, and AdamW without weight decay for the embedding, gains and θ.

        θ has Adam's default betas. It is in the optimizer of the embedding, so that `SignalScaled` can compare its
        gradients with digital ones. Muon is the published one: Nesterov momentum, five Newton-Schulz iterations in
        bfloat16, steps `√max(1, rows/columns)` times the rate, no weight decay. torch averages gradients and the
        published code sums them, which gives the same step.
        """
        if not hasattr(torch.optim, "Muon"):
            raise IncompatibleError(
                f"language tasks need `torch.optim.Muon`, which torch {torch.__version__} does not have"
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
        """The preset, with the given settings in place of its own."""
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
                f"{given.context} for training and {len(x_test)} for validation; a batch needs {given.batch_size}"
            )
        return Data(x_train, y_train, x_test, y_test)


@dataclass(frozen=True)
class Text(_Language):
    """Any plain text. The last tenth is for validation."""

    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """A plain text file, or a folder with *.txt files (or with text/ that contains them), which are read in the order
    of their names."""

    def __post_init__(self, data_dir: Path | None) -> None:
        self._resolve(data_dir)

    @property
    def name(self) -> str:
        return "text"

    def data(self) -> Data:
        files = self._files()
        tokens = [self._settings.tokens.of_file(path) for path in files]
        if empty := [str(path) for path, found in zip(files, tokens, strict=True) if not len(found)]:
            raise DataError(f"{', '.join(empty)}: there is no text in the file")
        return self._split(np.concatenate(tokens), str(self._data_dir))

    def _files(self) -> list[Path]:
        given = self._data_dir
        if given is None:
            raise DataError(
                "the text comes from your own file or folder: give it as `--data-dir`; for example the file of "
                f"`curl -fL -o tinyshakespeare.txt {SHAKESPEARE}`"
            )
        if given.is_file():
            return [given]
        folders = (given, given / self.name)
        found = next((files for folder in folders if (files := _texts(folder))), [])
        if not found:
            raise DataError(
                f"`--data-dir {given}` is not a file, and there is no *.txt in {folders[0]} or {folders[1]}"
            )
        return found


@dataclass(frozen=True)
class FineWeb(_Language):
    """English web pages from the sample of ten billion tokens of HuggingFaceFW/fineweb. A run uses as many tokens as
    its steps need, each once. A tenth of them, at most 10,485,760 tokens, is for validation.
    """

    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder for the tokens, 2 bytes each: 3.3 GB at the published size. By default the user's cache."""

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
            raise DataError(f"the cache of FineWeb needs pooch: {install('recipes')}, or give `--data-dir`") from error
        return Path(pooch.os_cache("blackprop")) / self.name


def _fineweb() -> TextStream:
    try:
        from datasets import load_dataset  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise DataError("FineWeb needs Hugging Face datasets: pip install datasets") from error
    return load_dataset("HuggingFaceFW/fineweb", "sample-10BT", split="train", streaming=True)


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if not is_companion(path))
