"""Serial ports, by pyserial, as streams of bytes."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

from tvm_shiftadd.errors import DependencyError, DeviceError, InputError
from vta_ext.link.frames import BAUD

#: Seconds that one look for bytes takes at most, and that a write may take.
_LOOK: Final = 0.05
_STUCK: Final = 10.0
_ADDRESS: Final = re.compile(r"(?P<port>.+?)(,(?P<baud>[0-9]{1,8}))?")


def parse(address: str) -> tuple[str, int]:
    """Port and rate of "PORT[,BAUD]". Raises InputError for another form."""
    found = _ADDRESS.fullmatch(address)
    if found is None or (found["baud"] is not None and int(found["baud"]) == 0):
        raise InputError(
            f"expected serial:PORT or serial:PORT,BAUD, such as serial:/dev/ttyUSB0,{BAUD}, got "
            f"serial:{address!s:.80}"
        )
    return found["port"], int(found["baud"] or BAUD)


class Port:
    """An open serial port; pyserial's URLs, as ``socket://HOST:PORT``, are ports, too.

    Raises DependencyError where pyserial is missing, InputError where it cannot have such a port
    and DeviceError where the port cannot be opened.
    """

    def __init__(self, name: str, baud: int = BAUD) -> None:
        try:
            import serial
        except ImportError as error:
            raise DependencyError(
                "a serial port needs pyserial: pip install 'tvm-shiftadd[boards]'"
            ) from error
        self._name = name
        #: Whether it broke off; it is closed then.
        self.lost = False
        try:
            self._port: Any = serial.serial_for_url(
                name, baudrate=baud, timeout=_LOOK, write_timeout=_STUCK, exclusive=True
            )
        except ValueError as error:
            raise InputError(
                f"there can be no serial port {name} of {baud} baud: {error}"
            ) from error
        except OSError as error:
            raise DeviceError(
                f"cannot open the serial port {name} ({error}); check its name, your right to use "
                "it, and that nothing else does"
            ) from error
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        try:
            self._port.reset_input_buffer()
        except OSError as error:
            raise self._lost(error) from error
        # USB adapters hold short answers back for milliseconds, unless they are told not to.
        with suppress(AttributeError, NotImplementedError, ValueError, OSError):
            self._port.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        """See :class:`vta_ext.link.host.Stream`."""
        try:
            self._port.write(data)
        except OSError as error:
            raise self._lost(error) from error

    def read(self, seconds: float) -> bytes:
        """See :class:`vta_ext.link.host.Stream`."""
        try:
            return bytes(self._port.read(max(1, self._port.in_waiting)))
        except OSError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Give the port back."""
        self._port.close()

    def _lost(self, error: OSError) -> DeviceError:
        self.lost = True
        self.close()
        return DeviceError(
            f"the serial port {self._name} is lost ({error}); connect the board and open it again"
        )
