"""What the library logs goes to the logger `thumbprint`."""

from __future__ import annotations

import atexit
import logging

from . import _ffi

_LEVELS = {
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
}


class _Sink(_ffi.LogSink):
    def on_log(self, record: _ffi.LogRecord) -> None:
        name = record.target.replace("::", ".")
        logging.getLogger(name).log(_LEVELS[record.level.name], "%s", record.text)


def install() -> None:
    """For the whole process; nothing is to call into Python once that ends."""
    logging.getLogger("thumbprint").addHandler(logging.NullHandler())
    _ffi.set_log_sink(_Sink())
    atexit.register(_ffi.set_log_sink, None)
