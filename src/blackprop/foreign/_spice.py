"""A circuit of ngspice as a device: the simulator is started once, and every row is an operating point."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, DeviceError, ReadingError
from blackprop.foreign._process import ProcessDevice, Program

SHARE = 8  # rows of a query that are worth another process
_VALUE = re.compile(r"bp(\d+) = (\S+)")
_END = "blackprop: end"
_UNKNOWN = "blackprop_unknown_command"
_HARMLESS = ("no graphics interface", "check if X-server", "compiled properly", "Reference value", "No compatibility")
_PARAMETER = re.compile(r"^\s*\.param\s+(.*)$", re.IGNORECASE | re.MULTILINE)


def from_spice(
    netlist: str | Path,
    *,
    parameters: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    initial: Callable[[torch.Generator], Tensor] | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    timeout: float = 60.0,
    command: Sequence[str] = ("ngspice",),
    processes: int = 1,
    **declared: Any,
) -> ProcessDevice:
    """Make a device of a netlist: θ are values of its elements, rows drive its sources, readings are its voltages.

    One ngspice process is started and kept. Each row is an operating point (`op`) of the circuit, computed from its
    own start, so a reading does not depend on the rows before it.

    **Costs** an operating point a row: in a circuit of a few elements 0.2 ms, where a process for each reading takes 16
    ms of processor time. A programming changes the elements in place. A name of `.param` is slower, since the circuit
    is then built again.

    **Arguments:**

    - `netlist`: the text of a netlist, whose first line is its title, or the path of its file. Analyses are not needed
      in it, and a `.control` block is refused.
    - `parameters`: the P values that form θ: elements (`"r1"`: Ω, `"v2"`: V), parameters of an element
      (`"@m1[w]"`), or names of `.param`.
    - `inputs`: the d_in sources that a row drives, such as `"vin"` (V) or `"iin"` (A).
    - `outputs`: the d_out expressions that are read, such as `"v(out)"`, `"v(a) - v(b)"` or `"i(vin)"`.
    - `low`, `high` (units of θ): the limits of the values; an element such as a resistor needs them.
    - `timeout` (s, default 60): for the rows of one query.
    - `command` (default `("ngspice",)`): how ngspice is started.
    - `processes` (default 1): as many ngspice processes share the rows of a query, side by side; useful up to the
      number of cores.
    - The others are those of `ThetaSpec` and `Device`. Without `initial`, θ starts at random within its limits.

    **Raises** `UnreachableError` if ngspice cannot be started, `DeviceError` with its words if it does not know a name
    or rejects the netlist, `ReadingError` if an operating point is not found, and `InDoubtError` if it ends.

    Source: ngspice manual 39, chapter 17.
    """
    _check_names({"parameters": parameters, "inputs": inputs, "outputs": outputs})
    if isinstance(command, str):
        raise ArgumentError(f"`from_spice(command=...)` takes a list, such as ['ngspice'], got {command!r}")
    netlist = _found(netlist)
    if not processes >= 1:
        raise ArgumentError(f"`from_spice(processes=...)` must be at least 1, got {processes}")
    theta = ThetaSpec(len(parameters), initial, low, high)
    given = (command, netlist, parameters, inputs, outputs, theta)
    members = [_Spice(*given, timeout=timeout, **declared) for _ in range(processes)]
    return members[0] if processes == 1 else _SpicePool(members)


def _check_names(names: dict[str, Sequence[str]]) -> None:
    for name, given in names.items():
        if isinstance(given, str) or not given:
            raise ArgumentError(f"`from_spice({name}=...)` takes a list of names, got {given!r}")
        if wrong := [each for each in given if not re.fullmatch(r"[^\n;$`]+", each)]:
            raise ArgumentError(f"`from_spice({name}=...)` takes names on one line, got {wrong[0]!r}")
    if wrong := [each for each in names["inputs"] if each[0].lower() not in "vi@"]:
        raise ArgumentError(f"`from_spice(inputs=...)` takes sources, whose names begin with v or i, got {wrong[0]!r}")
    driven = {each.lower() for each in names["inputs"]}
    if both := [each for each in names["parameters"] if each.lower() in driven]:
        raise ArgumentError(f"`from_spice`: {both[0]!r} is a parameter and an input: a row would replace θ")


def _found(netlist: str | Path) -> str | Path:
    """The text, or the path of a file that exists. Text of one line is a path."""
    if isinstance(netlist, str) and not netlist.strip():
        raise ArgumentError("`from_spice(netlist=...)` is empty")
    if isinstance(netlist, str) and "\n" not in netlist.strip():
        netlist = Path(netlist)
    if isinstance(netlist, Path):
        if not netlist.is_file():
            raise ArgumentError(f"`from_spice(netlist=...)`: there is no file {str(netlist)!r}")
        if re.search(r"\s", str(netlist.resolve())):
            raise ArgumentError(
                f"`from_spice(netlist=...)`: ngspice does not take a path with spaces, {str(netlist)!r}"
            )
    text = netlist.read_text() if isinstance(netlist, Path) else netlist
    if re.search(r"^\s*\.control\b", text, re.IGNORECASE | re.MULTILINE):
        raise ArgumentError(
            "`from_spice(netlist=...)`: remove the `.control` block: the device sends the commands itself"
        )
    return netlist


class _Spice(ProcessDevice):
    def __init__(
        self,
        command: Sequence[str],
        netlist: str | Path,
        parameters: Sequence[str],
        inputs: Sequence[str],
        outputs: Sequence[str],
        theta: ThetaSpec,
        **declared: Any,
    ) -> None:
        super().__init__([*command, "-p", "-n"], len(inputs), len(outputs), theta, **declared)
        self._netlist = netlist
        text = netlist.read_text() if isinstance(netlist, Path) else netlist
        words = " ".join(_PARAMETER.findall(text))
        shared = {name.lower() for name in re.findall(r"([A-Za-z_]\w*)\s*=", words)}
        self._shared = [name.lower() in shared for name in parameters]
        self._parameters, self._inputs, self._outputs = list(parameters), list(inputs), list(outputs)
        self._written: Tensor | None = None
        self._said = ""

    def _answer(self, program: Program, setting: Tensor, x: Tensor, fresh: bool) -> list[list[float]]:
        if fresh:
            self._load(program)
        if self._written is None or not torch.equal(self._written, setting):
            self._tell(program, self._programming(setting))
            self._written = setting
        lines = self._tell(program, "".join(map(self._row, x.tolist())), strict=False)
        return self._readings(lines, len(x))

    def _load(self, program: Program) -> None:
        self._written = None
        with tempfile.TemporaryDirectory(prefix="blackprop-") as folder:
            if isinstance(self._netlist, Path):
                file = self._netlist.resolve()  # where it is, since it may include other files
            else:
                file = Path(folder) / "circuit.cir"
                file.write_text(f"{self._netlist}\n")
            self._tell(program, f"source {file}\nset numdgt=12\nunset moremode\n")
            self._tell(program, "".join(f"alter {name} = 0\n" for name in self._inputs))  # an unknown one is told here

    def _programming(self, setting: Tensor) -> str:
        values = list(zip(self._parameters, setting.tolist(), self._shared, strict=True))
        text = "".join(f"alterparam {name} = {value!r}\n" for name, value, shared in values if shared)
        rest = "".join(f"alter {name} = {value!r}\n" for name, value, shared in values if not shared)
        return text + ("reset\n" if text else "") + rest

    def _row(self, row: list[float]) -> str:
        drives = "".join(f"alter {name} = {value!r}\n" for name, value in zip(self._inputs, row, strict=True))
        reads = "".join(f"let bp{k} = {output}\nprint bp{k}\n" for k, output in enumerate(self._outputs))
        return f"{drives}op\n{reads}echo blackprop: row\ndestroy\n"

    def _tell(self, program: Program, text: str, strict: bool = True) -> list[str]:
        """Send commands and return the lines up to their end. `strict`: any complaint of ngspice is an error."""
        # ngspice complains about the unknown command, and all complaints before that one have then been read.
        lines = program.exchange(f"{text}{_UNKNOWN}\necho {_END}\n", lambda line: line.strip() == _END)
        said = [line.strip() for line in program.complaints(_UNKNOWN) if line.strip()]
        self._said = " / ".join(line for line in said if not any(part in line for part in _HARMLESS))
        if strict and self._said:
            self.close()
            raise DeviceError(
                f"ngspice rejects the circuit or a name of it: {self._said[:500]} (the first line of a netlist is its "
                "title)"
            )
        return lines

    def _readings(self, lines: list[str], count: int) -> list[list[float]]:
        found: list[list[float]] = []
        row: dict[int, float] = {}
        for line in lines:
            if (match := _VALUE.fullmatch(line.strip())) is not None:
                row[int(match[1])] = self._real(int(match[1]), match[2])
            elif line.strip() == "blackprop: row":
                if len(row) != len(self._outputs):
                    lacking = next(name for k, name in enumerate(self._outputs) if k not in row)
                    self.close()
                    raise ReadingError(f"ngspice found no value of {lacking!r} at row {len(found)}: {self._said[:300]}")
                found.append([row[k] for k in range(len(row))])
                row = {}
        assert len(found) == count, (len(found), count)
        return found

    def _real(self, place: int, word: str) -> float:
        try:
            return float(word)
        except ValueError:
            self.close()
            raise ReadingError(f"the value of {self._outputs[place]!r} is {word}, expected a real number") from None

    def close(self) -> None:
        super().close()
        self._written = None


class _SpicePool(_Spice):
    """Several processes with the same circuit, which share the rows of each query in order."""

    def __init__(self, members: Sequence[_Spice]) -> None:
        for name, value in vars(members[0]).items():
            setattr(self, name, value)
        self._members = list(members)
        self._threads: ThreadPoolExecutor | None = None

    def program(self, theta: Tensor, /) -> None:
        for member in self._members:
            member.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        count = max(1, min(len(self._members), len(x) // SHARE))
        parts = list(zip(self._members, x.tensor_split(count), strict=False))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(len(self._members), thread_name_prefix="blackprop-ngspice")
        waiting = [self._threads.submit(member.read, rows) for member, rows in parts]
        wait(waiting)  # all, so that an error of one leaves no other behind
        return torch.cat([each.result() for each in waiting])

    def close(self) -> None:
        for member in self._members:
            member.close()
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
