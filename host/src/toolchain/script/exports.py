"""The wrapper module of a component: it exports the classes of `plugin.py`.

An exception that ends a call is logged with its stack, as the sandbox sees only a trap.
"""

import sys

import plugin
from wit_world.imports import logging

# Maximum number of stack frames in a report.
MAX_FRAMES = 10


def report(error):
    # The SDK has logged an exception of its own functions already.
    if getattr(sys.modules.get("sandmill"), "_reported", None) is error:
        return
    # The outermost frame is the wrapper's own.
    frames, frame = [], error.__traceback__.tb_next
    while frame is not None:
        code = frame.tb_frame.f_code
        frames.append(f"    at {code.co_name} ({code.co_filename.rpartition('/')[2]}:{frame.tb_lineno})")
        frame = frame.tb_next
    text = "\n".join([f"{type(error).__name__}: {error}", *frames[: -MAX_FRAMES - 1 : -1]])
    # A string of the contract cannot contain lone surrogates.
    text = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    logging.log(logging.Level.CRITICAL, "exception", text)


def reported(function):
    def call(*given):
        try:
            return function(*given)
        except BaseException as error:
            report(error)
            raise

    return call


class Description(plugin.Description):
    describe = reported(plugin.Description.describe)


class Projector(plugin.Projector):
    project = reported(plugin.Projector.project)
