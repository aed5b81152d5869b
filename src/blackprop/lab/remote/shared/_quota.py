"""Fair shares of something limited: memory for messages, sessions."""

from __future__ import annotations

from collections import Counter


def fits(own: int, more: int, taken: int, total: int) -> bool:
    """Whether an owner that holds `own` may take `more`: afterwards it must hold no more than was free before.

    `taken` of `total` is held by all owners, `own` included. If k owners take all they can, each ends with about
    total / (k + 1) and as much stays free, so one owner can never shut out the others (the dynamic thresholds of
    Choudhury and Hahne, IEEE/ACM Trans. Networking 6, 130, 1998).
    """
    return own + more <= total - taken


class FairQuota:
    """A number of bytes, shared by owners under the rule of `fits`."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._held: Counter[bytes] = Counter()

    def take(self, owner: bytes, amount: int) -> bool:
        """Take `amount` for `owner`, or return False and leave the quota unchanged."""
        if not self.fits(owner, amount):
            return False
        self._held[owner] += amount
        self.taken += amount
        return True

    def fits(self, owner: bytes, amount: int) -> bool:
        """Whether `owner` may take `amount`."""
        return fits(self._held[owner], amount, self.taken, self.total)

    def give_back(self, owner: bytes, amount: int) -> None:
        """Give `amount` of `owner` back."""
        self._held[owner] -= amount
        self.taken -= amount
        if not self._held[owner]:
            del self._held[owner]
