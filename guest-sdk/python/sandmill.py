"""The SDK for Sandmill plugins in Python.

Use `Documents` if an event changes one document, `View` if it changes several.

An author describes the plugin and writes a function per event type. The SDK handles batches, reads
and writes: one read per collection and batch, and one write per changed document. A failing event
has no effects. Printed text becomes log lines, and so does an exception with its traceback.

A plugin has no clock and no randomness, and the usual functions for them raise. Time and ids come
from the event, so that equal events produce equal documents.
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

# Deepest nesting of an event's data, levels: the limit of a store. Much deeper data would exhaust
# the guest's stack.
_LEVELS = 512
# Most documents in one read: half of what a host allows by default (`limits.reads`).
_READ_AT_ONCE = 10_000
# Most digits of a whole number: as many as a document may have. Python's default is 4,300.
sys.set_int_max_str_digits(8_000)

_HALF = re.compile("[\ud800-\udfff]")
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKETS = re.compile(r"[^][{}]+")

# Most lines of an exception's traceback in the log.
_TRACEBACK_LINES = 10


def _readable(words):
    """A text for people. U+FFFD replaces lone surrogates, which a contract's string cannot have."""
    words = str(words)
    return words if words.isascii() else _HALF.sub("\ufffd", words)


def _exact(what, words):
    """A string that must not be changed. Raises if it is none, or contains a lone surrogate."""
    if not isinstance(words, str):
        raise TypeError(f"{what} is not a string: {_shown(words)}")
    if not words.isascii() and _HALF.search(words):
        raise ValueError(f"{what} contains half a character (a lone surrogate): {ascii(words)}")
    return words


def _shown(value):
    """A value for a message. Lists and dicts are not shown, as they may be as large as an event."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "a dict"
    return repr(value[:200] if isinstance(value, str) else value)


def setting(key):
    """The value of a setting, or None if it is not set."""
    return _settings.get(_exact("the key of a setting", key))


class Failure(Exception):
    """The failure of an event. Raise a subclass: `Skip`, `Retry` or `Stop`."""

    action = None

    def __init__(self, code, message=""):
        super().__init__(message)
        self.code, self.message = _readable(code), _readable(message)


class Skip(Failure):
    """Sets the event aside as a dead letter. The lane continues."""


class Retry(Failure):
    """Retries the event after the policy's back-off, or after `after` milliseconds or later."""

    def __init__(self, code, message="", after=None):
        super().__init__(code, message)
        self.action = HaltAction_Retry() if after is None else HaltAction_RetryAfter(after)


class Stop(Failure):
    """Stops the lane before the event until a person resumes it."""

    action = HaltAction_Stop()


def natural(data, name):
    """A non-negative whole number in an event's data. Otherwise skips with `invalid-data`."""
    value = data.get(name) if isinstance(data, dict) else None
    if type(value) is not int or value < 0:
        raise Skip("invalid-data", f"`{name}` is not a non-negative whole number: {_shown(value)}")
    return value


def text(data, name):
    """A string in an event's data. Otherwise skips with `invalid-data`."""
    value = data.get(name) if isinstance(data, dict) else None
    if type(value) is not str:
        raise Skip("invalid-data", f"`{name}` is not a string: {_shown(value)}")
    return value


def _parse(data):
    """An event's data, parsed. Unreadable data skips the event with the code `invalid-data`."""
    if _is_too_deep(data):
        raise Skip("invalid-data", f"the data is nested deeper than {_LEVELS} levels")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Skip("invalid-data", f"the data is not readable JSON: {error}") from None


def _is_too_deep(data):
    """Whether a text is nested too deep. Most texts are too short, or have too few brackets."""
    if len(data) <= 2 * _LEVELS or data.count("[") + data.count("{") <= _LEVELS:
        return False
    level = 0
    for bracket in _NO_BRACKETS.sub("", _STRINGS.sub("", data)):
        level += 1 if bracket in "[{" else -1
        if level > _LEVELS:
            return True
    return False


class _Plugin:
    """The common base of plugins: description, functions for event types, and exports."""

    def __init__(
        self,
        id,
        collections,
        *,
        version="",
        partition_by=None,
        start=StartPosition.BEGINNING,
        read_model_version=1,
        max_batch_size=None,
    ):
        self._handlers = {}
        self._described = lambda: Descriptor(
            _exact("the id of the plugin", id),
            _readable(version),
            [_exact("an event type", event_type) for event_type in self._handlers],
            list(collections),
            partition_by or PartitionBy_Tenant(),
            start,
            read_model_version,
            max_batch_size,
        )

    def on(self, event_type):
        """Marks the function that handles an event type."""

        def mark(function):
            self._handlers[event_type] = _with_parameters(function, 3)
            return function

        return mark

    def exports(self):
        """The classes `Description` and `Projector`, which the plugin's module must export."""
        plugin = self

        class Description:
            def describe(self):
                try:
                    return plugin._described()
                except Exception as error:
                    _report(error)
                    raise

        class Projector:
            def project(self, batch):
                try:
                    return plugin._project(batch)
                except Exception as error:
                    _report(error)
                    raise

        return Description, Projector


def _with_parameters(function, count):
    """Adapts a function to `count` arguments. Drops the last ones if it has fewer parameters."""
    takes = function.__code__.co_argcount
    return function if takes >= count else lambda *given: function(*given[:takes])


class Documents(_Plugin):
    """A plugin in which an event changes one document.

    `@plugin.on("ItemAdded")` marks the function for an event type. It receives the document, the
    event's data and, if it has a third parameter, the event. It returns the new document, or None to
    remove it, and must not change the old one.

    `initial` is the document before its first event. `document_id` is a function of data and event;
    default: the event's stream. `partition_by`, `start`, `read_model_version` and `max_batch_size`
    are as in the contract. The module must export `Description, Projector = plugin.exports()`.
    """

    def __init__(self, id, *, collection, initial, document_id=None, **descriptor):
        super().__init__(id, [collection], **descriptor)
        self._collection, self._initial = collection, MappingProxyType(initial)
        self._document_id = document_id or (lambda data, event: event.stream_id)

    def _project(self, batch):
        entries, steps = {}, []
        for event in batch.events:
            try:
                data = _parse(event.data)
                id = self._document_id(data, event)
            except Failure as failure:
                steps.append(failure)
                continue
            if id not in entries:
                entries[id] = _Entry(_exact(f"the id of a document of `{self._collection}`", id))
            steps.append((event, data, entries[id]))
        if entries:
            stored = _documents.get_many(self._collection, list(entries))
            for entry, found in zip(entries.values(), stored):
                if found is not None:
                    entry.read(self._collection, found)

        def evolve(event, data, entry):
            entry.evolve(self._handlers[event.event_type], self._initial, data, event)

        failures = _handle_each(steps, evolve)
        changes = [entry.change(self._collection) for entry in entries.values() if entry.changed]
        return Projection([change for change in changes if change is not None], *failures)


class View(_Plugin):
    """A plugin in which an event changes several documents.

    `@plugin.on("ItemAdded")` marks the function for an event type. It receives a view of the
    documents, the event's data and, if it has a third parameter, the event. It calls
    `view.get(collection, id)`, `view.put(collection, id, document)` and
    `view.remove(collection, id)`. It sees the writes of earlier events and its own. If it raises, its
    writes are dropped.

    `@plugin.reads("items")` marks a function per collection of the plugin. It receives the event's
    data and, if it has the parameters, the event and a view. It returns the ids of the documents that
    an event needs. Collections are read in this order, each once per batch, so the view shows
    documents of earlier collections, as they were before the batch. Reading ahead only saves time: a
    document that is not named is read when an event asks for it.

    `exports` and the other parameters are as in `Documents`.
    """

    def __init__(self, id, **descriptor):
        self._reads = {}
        super().__init__(id, self._reads, **descriptor)

    def reads(self, collection):
        """Marks the function that returns the ids of the documents that an event needs."""

        def mark(function):
            self._reads[collection] = _with_parameters(function, 3)
            return function

        return mark

    def _project(self, batch):
        view, steps = _View(self._reads), []
        for event in batch.events:
            try:
                steps.append((event, _parse(event.data)))
            except Failure as failure:
                steps.append(failure)
        before, readable = _Before(view), [step for step in steps if not isinstance(step, Failure)]
        for collection, ids in self._reads.items():
            named = []
            for event, data in readable:
                try:
                    named.extend(id for id in ids(data, event, before) if _is_id(id))
                except Failure:
                    pass
                except Exception as error:
                    _logging.log(
                        _logging.Level.WARN,
                        "",
                        _readable(
                            f"`reads` of `{collection}` failed for the event {event.id}; "
                            f"its documents are read one at a time, which is slower: {type(error).__name__}: {error}"
                        ),
                    )
            view._read(collection, named)

        def handle(event, data):
            with view:
                if self._handlers[event.event_type](view, data, event) is not None:
                    raise TypeError(
                        f"the function of `{event.event_type}` returned a value; "
                        "return nothing, and change documents with view.put and view.remove"
                    )

        failures = _handle_each(steps, handle)
        return Projection(view._changes(), *failures)


def _handle_each(steps, handle):
    """Handles events in order, until one stops the lane. A step is an event, or its failure."""
    skipped = []
    for index, step in enumerate(steps):
        try:
            if isinstance(step, Failure):
                raise step
            handle(*step)
        except Skip as failure:
            skipped.append(SkippedEvent(index, failure.code, failure.message))
        except Failure as failure:
            return skipped, Halt(index, failure.action, failure.code, failure.message)
    return skipped, None


# The last exception that was reported. The wrapper of `sandmill plugin build` does not repeat it.
_reported = None


def _report(error):
    """Logs the exception that ends a call, and where: the host only sees a trap."""
    global _reported
    _reported = error
    places, place = [], error.__traceback__
    while place is not None:
        code = place.tb_frame.f_code
        places.append(f"    at {code.co_name} ({code.co_filename.rpartition('/')[2]}:{place.tb_lineno})")
        place = place.tb_next
    # The innermost call first, and not all, as a recursion can have very many.
    lines = [f"{type(error).__name__}: {error}", *places[:-_TRACEBACK_LINES - 1:-1]]
    _logging.log(_logging.Level.CRITICAL, "exception", _readable("\n".join(lines)))


class _Entry:
    """A document while a batch is handled."""

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
            raise TypeError(
                f"the function of `{event.event_type}` returned no document; return a dict, or None to remove the document"
            )
        self.document, self.changed = evolved, True

    def change(self, collection):
        if self.document is not None:
            return Change_Put(Document(collection, self.id, _dump(collection, self.id, self.document)))
        return Change_Remove(DocumentKey(collection, self.id)) if self.existed else None


def _is_id(id):
    """Whether a value can be a document's id: a string of 1 to 512 bytes."""
    return isinstance(id, str) and "\0" not in id and not _HALF.search(id) and 1 <= len(id.encode()) <= 512


def _dump(collection, id, document):
    """A document as JSON."""
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    half = None if data.isascii() else _HALF.search(data)
    if half is not None:
        near = ascii(data[max(half.start() - 40, 0) : half.end() + 40])
        raise ValueError(f"the document {id!r} of `{collection}` contains half a character (a lone surrogate): … {near} …")
    return data


class _View:
    """The documents of a batch. As a context manager, it drops the writes of a failing event.

    Documents are kept as JSON text, so an event finds the same document whether it was written in
    this batch or in an earlier one.
    """

    def __init__(self, collections):
        # Per document: its text, whether the host has none, and whether it was changed.
        self._collections = {collection: {} for collection in collections}
        self._replaced = []

    def get(self, collection, id):
        """A document, or None if it does not exist."""
        entries = self._of(collection)
        if id not in entries:
            self._read(collection, [_exact(f"the id of a document of `{collection}`", id)])
        text = entries[id][0]
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Stop("unreadable-document", f"{collection} {id}: {error}") from None

    def put(self, collection, id, document):
        """Creates or replaces a document."""
        if not isinstance(document, dict):
            raise TypeError(f"the document {_shown(id)} of `{collection}` is not a dict: {_shown(document)}")
        self._write(collection, id, _dump(collection, id, document))

    def remove(self, collection, id):
        """Removes a document. No error if it does not exist."""
        self._write(collection, id, None)

    def _of(self, collection):
        if collection not in self._collections:
            raise TypeError(f"the collection {_shown(collection)} has no function for `reads`; mark one with `@plugin.reads`")
        return self._collections[collection]

    def _read(self, collection, ids):
        entries = self._of(collection)
        unknown = [id for id in dict.fromkeys(ids) if id not in entries]
        for at in range(0, len(unknown), _READ_AT_ONCE):
            part = unknown[at : at + _READ_AT_ONCE]
            for id, text in zip(part, _documents.get_many(collection, part)):
                entries[id] = (text, text is None, False)

    def _write(self, collection, id, text):
        entries = self._of(collection)
        former = entries.get(_exact(f"the id of a document of `{collection}`", id))
        self._replaced.append((entries, id, former))
        entries[id] = (text, former is not None and former[1], True)

    def __enter__(self):
        self._replaced.clear()

    def __exit__(self, error, *_):
        if error is None:
            return
        for entries, id, former in reversed(self._replaced):
            if former is None:
                del entries[id]
            else:
                entries[id] = former

    def _changes(self):
        changes = []
        for collection, entries in self._collections.items():
            for id, (text, absent, changed) in entries.items():
                if changed and text is not None:
                    changes.append(Change_Put(Document(collection, id, text)))
                elif changed and not absent:
                    changes.append(Change_Remove(DocumentKey(collection, id)))
        return changes


class _Before:
    """The documents as they were before the batch."""

    def __init__(self, view):
        self.get = view.get


class _Log:
    """Log lines, at the levels of the contract: `log.info("…")`."""

    def __getattr__(self, level):
        number = _logging.Level[level.upper()]
        return lambda message: _logging.log(number, "", _readable(message))


log = _Log()


class _Lines(io.TextIOBase):
    """A text stream that writes each printed line to the log."""

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
        raise RuntimeError(f"a plugin has no {what}; use the event's time and id, so that equal events produce equal documents")

    return refuse


sys.stdout, sys.stderr = _Lines("stdout", _logging.Level.INFO), _Lines("stderr", _logging.Level.ERROR)
for _name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"):
    setattr(time, _name, _none("clock"))
for _name in ("random", "randint", "randrange", "choice", "uniform", "getrandbits", "shuffle", "sample"):
    setattr(random, _name, _none("randomness"))
