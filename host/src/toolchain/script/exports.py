"""The wrapper module of a component: it exports the classes of `plugin.py`.

An exception that ends a call is logged with its stack, as the sandbox sees only a trap.
"""

import sys

import plugin
from wit_world.imports import logging

# Number of stack frames in a report.
PLACES = 10


def report(error):
    # The SDK has logged an exception of its own functions already.
    if getattr(sys.modules.get("sandmill"), "_reported", None) is error:
        return
    # The outermost frame is the wrapper's own.
    places, place = [], error.__traceback__.tb_next
    while place is not None:
        code = place.tb_frame.f_code
        places.append(f"    at {code.co_name} ({code.co_filename.rpartition('/')[2]}:{place.tb_lineno})")
        place = place.tb_next
    said = "\n".join([f"{type(error).__name__}: {error}", *places[: -PLACES - 1 : -1]])
    # Half characters (surrogates) are no text of the contract.
    said = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in said)
    logging.log(logging.Level.CRITICAL, "exception", said)


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
