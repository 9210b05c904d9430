"""Reading the headers of bitstreams bit by bit."""

from __future__ import annotations


class UnsureError(Exception):
    """What frames come out of packets, or which packets a frame needs, cannot be told from their headers."""


class Bits:
    """Reads bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._num = self._left = 8 * len(data)

    @property
    def position(self) -> int:
        """How many bits have been read."""
        return self._num - self._left

    def read(self, num: int) -> int:
        """A number of `num` bits.

        Raises:
            UnsureError: There are not so many.
        """
        self._left -= num
        if self._left < 0:
            raise UnsureError("a header that is cut short")
        return self._value >> self._left & ((1 << num) - 1)

    def ue(self) -> int:
        """A number whose leading zeros say how long it is (ITU-T H.264, 9.1: ue(v)).

        Raises:
            UnsureError: It is not whole.
        """
        rest = self._value & ((1 << self._left) - 1)
        zeros = self._left - rest.bit_length()
        self._left -= 2 * zeros + 1
        if self._left < 0:
            raise UnsureError("a header that is cut short")
        return (rest >> self._left) - 1

    def se(self) -> int:
        """The same with a sign (se(v))."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)
