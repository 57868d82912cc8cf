"""Sandmill plugins in Python: documents that events evolve, an event one document.

An author says what the plugin is, what a document begins as, and for each event type what it makes of the document; batches, reading and writing
are done here. A batch costs one read, and one write for each changed document. Functions give a new document back and leave the old one as it
was, so an event that fails leaves no trace. What is printed becomes log lines, and so does an exception, with where it came from. There is no clock
and no randomness worth the name: time and ids come from the event, or the same events would not lead to the same documents.
"""

import io
import json
import random
import re
import sys
import time
from types import MappingProxyType

from wit_world.exports.projector import Projection
from wit_world.imports import documents as _documents
from wit_world.imports import logging as _logging
from wit_world.imports import settings as _settings
from wit_world.imports.types import (
    Change_Put,
    Change_Remove,
    Descriptor,
    Document,
    DocumentKey,
    Halt,
    HaltAction_Retry,
    HaltAction_RetryAfter,
    HaltAction_Stop,
    PartitionBy_Tenant,
    SkippedEvent,
    StartPosition,
)

# Levels of arrays and objects that an event's data may have: all that a store accepts. Much deeper data would use up the guest's stack.
_LEVELS = 512
# Digits of a whole number: as many as a document may hold, where Python by itself reads 4,300.
sys.set_int_max_str_digits(8_000)

_HALF = re.compile("[\ud800-\udfff]")
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKETS = re.compile(r"[^][{}]+")

# How many calls of functions are told of where an exception came from.
_PLACES_SAID = 10


def _readable(words):
    """A text for people, with U+FFFD in place of half characters, which no text of the contract can hold."""
    words = str(words)
    return words if words.isascii() else _HALF.sub("\ufffd", words)


def _exact(what, words):
    """A text that has to stay as it is."""
    if not isinstance(words, str):
        raise TypeError(f"{what} is not a text: {_shown(words)}")
    if not words.isascii() and _HALF.search(words):
        raise ValueError(f"{what} holds half a character (a surrogate): {ascii(words)}")
    return words


def _shown(value):
    """A value for a message. Lists and dicts may be as large and as deep as an event."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "a dict"
    return repr(value[:200] if isinstance(value, str) else value)


def setting(key):
    """What an operator set under a key; None where nothing is set."""
    return _settings.get(_exact("the key of a setting", key))


class Failure(Exception):
    """An event that cannot be handled. Raise one of its kinds."""

    action = None

    def __init__(self, code, message=""):
        super().__init__(message)
        self.code, self.message = _readable(code), _readable(message)


class Skip(Failure):
    """Sets the event aside as a dead letter; the lane goes on."""


class Retry(Failure):
    """Tries the event again later: when the policy says so, or not before so many milliseconds."""

    def __init__(self, code, message="", after=None):
        super().__init__(code, message)
        self.action = HaltAction_Retry() if after is None else HaltAction_RetryAfter(after)


class Stop(Failure):
    """Stops the lane until a person resumes it."""

    action = HaltAction_Stop()


def natural(data, name):
    """A whole number, not negative, of an event's data. An event without it is set aside with the code `invalid-data`."""
    value = data.get(name) if isinstance(data, dict) else None
    if type(value) is not int or value < 0:
        raise Skip("invalid-data", f"`{name}` is not a whole number that is not negative: {_shown(value)}")
    return value


def text(data, name):
    """A text of an event's data. An event without it is set aside with the code `invalid-data`."""
    value = data.get(name) if isinstance(data, dict) else None
    if type(value) is not str:
        raise Skip("invalid-data", f"`{name}` is not a text: {_shown(value)}")
    return value


def _parse(data):
    """An event's data. What cannot be read is set aside with the code `invalid-data`."""
    if _is_too_deep(data):
        raise Skip("invalid-data", f"the data nests deeper than {_LEVELS} levels")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Skip("invalid-data", f"the data cannot be read: {error}") from None


def _is_too_deep(data):
    """Whether a text nests deeper than can be read. Most texts are too short for that, or hold too few brackets."""
    if len(data) <= 2 * _LEVELS or data.count("[") + data.count("{") <= _LEVELS:
        return False
    level = 0
    for bracket in _NO_BRACKETS.sub("", _STRINGS.sub("", data)):
        level += 1 if bracket in "[{" else -1
        if level > _LEVELS:
            return True
    return False


class Documents:
    """A plugin of events that evolve documents.

    `@plugin.on("ItemAdded")` marks a function for an event type, which takes the document, the event's data and, if it has a third parameter
    to it, the event, and gives the new document back, or None for a document that goes. `document_id`, a function of data and event, finds
    the document by something else than the event's stream. `plugin.exports()` is what the module must name `Description, Projector`.
    """

    def __init__(
        self,
        id,
        *,
        collection,
        initial,
        version="",
        document_id=None,
        partition_by=None,
        start=StartPosition.BEGINNING,
        read_model_version=1,
        max_batch_size=None,
    ):
        self._collection, self._initial = collection, MappingProxyType(initial)
        self._document_id = document_id or (lambda data, event: event.stream_id)
        self._handlers = {}
        self._described = lambda: Descriptor(
            _exact("the id of the plugin", id),
            _readable(version),
            [_exact("an event type", event_type) for event_type in self._handlers],
            [collection],
            partition_by or PartitionBy_Tenant(),
            start,
            read_model_version,
            max_batch_size,
        )

    def on(self, event_type):
        """Marks the function for an event type."""

        def mark(function):
            takes_event = function.__code__.co_argcount > 2
            self._handlers[event_type] = function if takes_event else lambda document, data, _: function(document, data)
            return function

        return mark

    def exports(self):
        """What the plugin's module exports: the classes `Description` and `Projector`."""
        plugin = self

        class Description:
            def describe(self):
                try:
                    return plugin._described()
                except Exception as error:
                    _say_what_ended(error)
                    raise

        class Projector:
            def project(self, batch):
                try:
                    return plugin._project(batch)
                except Exception as error:
                    _say_what_ended(error)
                    raise

        return Description, Projector

    def _project(self, batch):
        entries, steps = {}, []
        for event in batch.events:
            try:
                data = _parse(event.data)
                id = self._document_id(data, event)
            except Failure as failure:
                steps.append((event, None, failure))
                continue
            if id not in entries:
                entries[id] = _Entry(_exact(f"the id of a document of `{self._collection}`", id))
            steps.append((event, data, entries[id]))
        if entries:
            stored = _documents.get_many(self._collection, list(entries))
            for entry, found in zip(entries.values(), stored):
                if found is not None:
                    entry.read(self._collection, found)

        skipped, halted = [], None
        for index, (event, data, entry) in enumerate(steps):
            try:
                if isinstance(entry, Failure):
                    raise entry
                entry.evolve(self._handlers[event.event_type], self._initial, data, event)
            except Skip as failure:
                skipped.append(SkippedEvent(index, failure.code, failure.message))
            except Failure as failure:
                halted = Halt(index, failure.action, failure.code, failure.message)
                break
        changes = [entry.change(self._collection) for entry in entries.values() if entry.changed]
        return Projection([change for change in changes if change is not None], skipped, halted)


def _say_what_ended(error):
    """Says what ends a call, and where, before the sandbox sees nothing but a trap."""
    places, place = [], error.__traceback__
    while place is not None:
        code = place.tb_frame.f_code
        places.append(f"    at {code.co_name} ({code.co_filename.rpartition('/')[2]}:{place.tb_lineno})")
        place = place.tb_next
    # The innermost first, as whoever reads only the beginning wants that; a recursion has more than anybody reads.
    said = [f"{type(error).__name__}: {error}", *places[:-_PLACES_SAID - 1:-1]]
    _logging.log(_logging.Level.CRITICAL, "exception", _readable("\n".join(said)))


class _Entry:
    """A document of the batch."""

    __slots__ = ("id", "document", "existed", "changed", "unreadable")

    def __init__(self, id):
        self.id, self.document, self.existed, self.changed, self.unreadable = id, None, False, False, None

    def read(self, collection, stored):
        self.existed = True
        try:
            self.document = json.loads(stored)
        except (ValueError, RecursionError) as error:
            self.unreadable = Stop("unreadable-document", f"{collection} {self.id}: {error}")

    def evolve(self, handler, initial, data, event):
        if self.unreadable is not None:
            raise self.unreadable
        evolved = handler(initial if self.document is None else self.document, data, event)
        if evolved is not None and not isinstance(evolved, dict):
            raise TypeError(f"{event.event_type} must give back a dict, or None for a document that goes")
        self.document, self.changed = evolved, True

    def change(self, collection):
        if self.document is not None:
            data = json.dumps(self.document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            half = None if data.isascii() else _HALF.search(data)
            if half is not None:
                near = ascii(data[max(half.start() - 40, 0) : half.end() + 40])
                raise ValueError(f"the document {self.id!r} of `{collection}` holds half a character (a surrogate): … {near} …")
            return Change_Put(Document(collection, self.id, data))
        return Change_Remove(DocumentKey(collection, self.id)) if self.existed else None


class _Log:
    """Log lines, at the levels of the contract: `log.info("…")`."""

    def __getattr__(self, level):
        number = _logging.Level[level.upper()]
        return lambda message: _logging.log(number, "", _readable(message))


log = _Log()


class _Lines(io.TextIOBase):
    """What is printed, line by line."""

    def __init__(self, context, level):
        self._context, self._level, self._rest = context, level, ""

    def writable(self):
        return True

    def write(self, printed):
        *lines, self._rest = (self._rest + printed).split("\n")
        for line in lines:
            _logging.log(self._level, self._context, _readable(line))
        return len(printed)


def _none(what):
    def refuse(*_, **__):
        raise RuntimeError(f"a plugin has no {what}: take what you need from the event, so that the same events lead to the same documents")

    return refuse


sys.stdout, sys.stderr = _Lines("stdout", _logging.Level.INFO), _Lines("stderr", _logging.Level.ERROR)
for _name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"):
    setattr(time, _name, _none("clock"))
for _name in ("random", "randint", "randrange", "choice", "uniform", "getrandbits", "shuffle", "sample"):
    setattr(random, _name, _none("randomness"))
