"""The members of a farm: those in service, their shares of a round, and their ledgers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger, less
from blackprop.core._metered import metered, price
from blackprop.core._procedure import Measure, ask
from blackprop.core._query import Count, Query
from blackprop.errors import DeviceError
from blackprop.lab.farm._member import FAULTS, Member, told
from blackprop.lab.farm._shares import Piece, cut, joined, shares

T = TypeVar("T")
Answers = dict[int, tuple[list[Tensor], float]]  # by member: readings, and the seconds they took


class MemberPool:
    """Members that share rounds out; those that fail are left out of the next."""

    def __init__(self, name: str, members: list[Member]) -> None:
        self.name, self.members = name, members
        self.closed = False

    @property
    def in_service(self) -> list[int]:
        return [at for at, member in enumerate(self.members) if member.in_service]

    def take_back(self) -> None:
        """Begin the trials that are due, and take the results of finished ones; without a member in service, of all."""
        for member in self.members:
            member.try_again()
        alone = not self.in_service
        for member in self.members:
            if member.trial is not None and (alone or member.trial.done()):
                member.conclude()

    def serve(self, queries: Sequence[Query]) -> list[Tensor]:
        """A round; as long as anyone is in service."""
        answers: dict[Piece, Tensor] = {}
        missing = [Piece(index, 0, len(query.x)) for index, query in enumerate(queries)]
        while missing:
            missing = self._share_out(queries, missing, answers)
        return joined(queries, answers)

    def _share_out(self, queries: Sequence[Query], pieces: list[Piece], answers: dict[Piece, Tensor]) -> list[Piece]:
        """Have `pieces` served by those in service; returns the pieces of those that failed."""
        present = [member for member in self.members if member.in_service]
        if not present or self.closed:
            raise self.nobody()
        plan = shares(queries, pieces, [m.cost for m in present], [m.held for m in present])
        cache: dict[tuple[int, int, int], Tensor] = {}
        jobs = [(m, share, cut(queries, share, cache)) for m, share in zip(present, plan, strict=True) if share]
        outcomes = outcomes_of([member.serve(asked) for member, _, asked in jobs])
        missing: list[Piece] = []
        for (member, share, asked), outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                member.failed(told(outcome), asked[0])
                missing += share
            else:
                answers.update(zip(share, member.answered(asked, outcome), strict=True))
        return sorted(missing)

    def asked_apart(self, who: list[int], queries: Sequence[Query], budget: Budget | None) -> tuple[Answers, Ledger]:
        """The same queries to each of them, at once: readings and seconds of those that answered, and the bill."""
        members = [self.members[at] for at in who]
        due = Ledger.sum(price(lambda: ask(*queries), member.device) for member in members)
        if budget is not None:
            budget.reserve(due.spent, due.costs)
        own = [Ledger() for _ in members]
        jobs = [
            member.do(partial(_timed, member, queries, metered(member.device, ledger)))
            for member, ledger in zip(members, own, strict=True)
        ]
        found: Answers = {}
        for at, outcome in zip(who, outcomes_of(jobs), strict=True):
            if isinstance(outcome, BaseException):
                self.members[at].failed(told(outcome), queries[0])
            else:
                found[at] = outcome
        bill = Ledger.sum(own)
        if budget is not None:
            more = bill.spent
            more.subtract(due.spent)
            budget.spend(more, less(bill.costs, due.costs))
        return found, bill

    def close(self) -> None:
        """End the threads and close the members that can be closed; raises for those that could not be."""
        closed, self.closed = self.closed, True
        failed: list[str] = []
        for member in () if closed else self.members:
            try:
                member.close()
            except Exception as error:  # the other members must be parked in any case
                failed.append(f"{member.device}: {told(error)}")
        if failed:
            raise DeviceError(f"{len(failed)} of {self.name} could not be closed: {'; '.join(failed)}")

    def asked(self) -> Count:
        """Everything that the members were asked so far."""
        return Ledger.sum(member.ledger for member in self.members).spent

    def nobody(self) -> DeviceError:
        if self.closed:
            return DeviceError(f"{self.name} is closed")
        reasons = [f"{at}: {member.reason}" for at, member in enumerate(self.members)]
        return DeviceError(f"no member of {self.name} is in service; {'; '.join(reasons)}")

    def state_of(self, member: Member) -> Any:
        """None where it is out, or turns out to be: a run goes on without it, and so do its checkpoints."""
        if not member.in_service:
            return None
        try:
            return member.state()
        except FAULTS as error:
            member.failed(told(error))
            return None

    def load(self, states: Sequence[Any]) -> None:
        """All, or none."""
        before: list[tuple[Member, Any]] = []
        for member, state in zip(self.members, states, strict=True):
            if state is None or (was := self.state_of(member)) is None:
                continue
            try:
                member.do(partial(member.device.load_state_dict, state)).result()
            except FAULTS as error:
                member.failed(told(error))
            except BaseException:
                for other, old in before:
                    other.do(partial(other.device.load_state_dict, old)).result()
                raise
            else:
                before.append((member, was))


def outcomes_of(jobs: Sequence[Future[T]]) -> list[T | BaseException]:
    """Return the results or faults of all jobs, after the last; raise any error that is not a fault of a device."""
    errors = [job.exception() for job in jobs]  # waits for each
    for error in errors:
        if error is not None and not isinstance(error, FAULTS):
            raise error
    return [job.result() if error is None else error for job, error in zip(jobs, errors, strict=True)]


def _timed(member: Member, queries: Sequence[Query], measure: Measure) -> tuple[list[Tensor], float]:
    began = time.perf_counter()
    return member.asked(queries, measure), time.perf_counter() - began
