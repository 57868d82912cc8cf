"""Tests of the SDK in plain Python, with a fake host: `python3 -m unittest discover guest-sdk/python`."""

import contextlib
import json
import sys
import time
import types
import unittest
from collections import namedtuple
from pathlib import Path

lines, stored, reads = [], {}, []


def _module(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


class _Level(int):
    def __class_getitem__(cls, name):
        return name


_Level.INFO, _Level.WARN, _Level.ERROR, _Level.CRITICAL = "INFO", "WARN", "ERROR", "CRITICAL"
_settings = {"limit": "7"}
_types = {
    "Change_Put": "value",
    "Change_Remove": "value",
    "Descriptor": "id version event_types collections partition_by start read_model_version max_batch_size",
    "Document": "collection id data",
    "DocumentKey": "collection id",
    "Halt": "index action code message",
    "HaltAction_Retry": "",
    "HaltAction_RetryAfter": "value",
    "HaltAction_Stop": "",
    "PartitionBy_Tenant": "",
    "SkippedEvent": "index code message",
}
_module("wit_world")
_module("wit_world.exports")
_module("wit_world.exports.projector", Projection=namedtuple("Projection", "changes skipped halted"))


def _get_many(collection, ids):
    reads.append((collection, ids))
    return [stored.get(id, stored.get((collection, id))) for id in ids]


_documents = types.SimpleNamespace(get_many=_get_many)
_logging = types.SimpleNamespace(Level=_Level, log=lambda level, context, message: lines.append((level, message)))
_module("wit_world.imports", documents=_documents, logging=_logging, settings=types.SimpleNamespace(get=_settings.get))
_module(
    "wit_world.imports.types",
    StartPosition=types.SimpleNamespace(BEGINNING=0),
    **{name: namedtuple(name, fields) for name, fields in _types.items()},
)
# The SDK removes a plugin's clock and standard output; the tests need both.
_kept = {name: getattr(time, name) for name in dir(time)}
_out, _err = sys.stdout, sys.stderr
sys.path.insert(0, str(Path(__file__).parent))
import sandmill  # noqa: E402

_printed = sys.stdout
sys.stdout, sys.stderr = _out, _err
for _name, _value in _kept.items():
    setattr(time, _name, _value)

HALF = "ab\ud83d"
REPLACED = "ab\ufffd"
Event = namedtuple("Event", "data event_type stream_id id", defaults=["e"])


def answer(handler, data, **more):
    """The answer of a plugin to events of the type E with these data."""
    lines.clear()
    plugin = sandmill.Documents("p", collection="c", initial={"n": 0}, **more)
    plugin.on("E")(handler)
    _, projector = plugin.exports()
    events = [Event(data, "E", f"s{index}") for index, data in enumerate(data)]
    return projector().project(types.SimpleNamespace(events=events))


def counts(document, data):
    return {"n": document["n"] + 1}


def raises(error):
    def handler(document, data):
        raise error

    return handler


def sums(named=True):
    """Sums in the collections `a` and `b`, by the data's deeds. A document with the sum zero is removed."""
    plugin = sandmill.View("sums")
    for of in ("a", "b"):
        plugin.reads(of)(lambda data, event, view, of=of: [id for other, id, _ in data["deeds"] if named and other == of])

    @plugin.on("E")
    def add(view, data):
        for collection, id, add in data["deeds"]:
            sum = (view.get(collection, id) or {"sum": 0})["sum"] + add
            if sum == 0:
                view.remove(collection, id)
            else:
                view.put(collection, id, {"sum": sum})
        if data.get("fail"):
            raise {"skip": sandmill.Skip, "stop": sandmill.Stop}[data["fail"]]("asked")

    return plugin


def outcome(plugin, data, size):
    """The documents and failures after events of the type E, handled in batches of a size."""
    lines.clear(), stored.clear(), reads.clear()
    projector, failed = plugin.exports()[1](), []
    for at in range(0, len(data), size):
        events = [Event(json.dumps(data), "E", "s") for data in data[at : at + size]]
        changes, skipped, halted = projector.project(types.SimpleNamespace(events=events))
        for (change,) in changes:
            if hasattr(change, "data"):
                stored[change.collection, change.id] = change.data
            else:
                del stored[change.collection, change.id]
        failed += [(at + skip.index, skip.code) for skip in skipped]
        if halted:
            failed.append((at + halted.index, halted.code, True))
            break
    documents = {"/".join(key): text for key, text in sorted(stored.items())}
    stored.clear()
    return documents, failed


def nested(levels, inner=""):
    return '{"x":' + "[" * (levels - 1) + inner + "]" * (levels - 1) + "}"


class Sdk(unittest.TestCase):
    def test_a_lone_surrogate_in_a_text_for_people_becomes_u_fffd(self):
        skipped = answer(raises(sandmill.Skip(HALF, HALF)), ["{}"]).skipped
        self.assertEqual(skipped, [(0, REPLACED, REPLACED)])
        halted = answer(raises(sandmill.Stop("code", HALF)), ["{}"]).halted
        self.assertEqual((halted.code, halted.message), ("code", REPLACED))
        lines.clear()
        sandmill.log.info(HALF)
        with contextlib.redirect_stdout(_printed):
            print(HALF)
        self.assertEqual(lines, [("INFO", REPLACED), ("INFO", REPLACED)])

    def test_a_lone_surrogate_in_an_exception_does_not_hide_the_exception(self):
        with self.assertRaises(RuntimeError):
            answer(raises(RuntimeError(HALF)), ["{}"])
        self.assertTrue(lines[0][1].startswith(f"RuntimeError: {REPLACED}\n"), lines)

    def test_a_lone_surrogate_that_would_change_data_is_refused(self):
        def refused(handler, **more):
            with self.assertRaises((ValueError, TypeError)):
                answer(handler, ["{}"], **more)
            return lines[0][1].splitlines()[0]

        message = "contains half a character (a lone surrogate):"
        by_half = refused(counts, document_id=lambda data, event: HALF)
        self.assertEqual(by_half, f"ValueError: the id of a document of `c` {message} 'ab\\ud83d'")
        for document in ({"a": [{"b": HALF}]}, {HALF: 1}):
            found = refused(lambda *_: document)
            self.assertTrue(found.startswith(f"ValueError: the document 's0' of `c` {message} … ") and "ab\\ud83d" in found, found)
        by_number = refused(counts, document_id=lambda data, event: 7)
        self.assertEqual(by_number, "TypeError: the id of a document of `c` is not a string: 7")
        with self.assertRaises(ValueError):
            sandmill.setting(HALF)
        self.assertEqual((sandmill.setting("limit"), sandmill.setting("none")), ("7", None))

    def test_unreadable_data_is_skipped_and_all_data_that_a_store_accepts_is_readable(self):
        wide = "[" + '{"a":[]},' * 2_000 + '"' + '[\\"' * 2_000 + '"]'
        data = [
            nested(512), nested(513), nested(100_000), wide, "9" * 5_000, '{"x":1e400}', "", "[1", nested(512, '"\\\\"'),
            nested(513, '"]"'), "9" * 8_001,
        ]
        answered = answer(counts, data)
        deep = "the data is nested deeper than 512 levels"
        found = [(skipped.index, skipped.code, skipped.message == deep) for skipped in answered.skipped]
        expected = [(1, True), (2, True), (6, False), (7, False), (9, True), (10, False)]
        self.assertEqual(found, [(index, "invalid-data", is_deep) for index, is_deep in expected])
        self.assertTrue(answered.skipped[2].message.startswith("the data is not readable JSON: Expecting value"))
        self.assertEqual([change.value.id for change in answered.changes], ["s0", "s3", "s4", "s5", "s8"])

    def test_an_unreadable_document_stops_the_lane_before_an_event_that_needs_it(self):
        stored.update({"s0": '{"n":4}', "s1": "{"})
        answered = answer(counts, ["{}", "{}", "{}"])
        stored.clear()
        self.assertEqual([(change.value.id, change.value.data) for change in answered.changes], [("s0", '{"n":5}')])
        self.assertEqual((answered.halted.index, answered.halted.code), (1, "unreadable-document"))

    def test_a_message_shows_a_wrong_value_but_only_the_kind_of_a_list(self):
        def message(read, value):
            return answer(lambda document, data: read(data, "x"), ['{"x":%s}' % value]).skipped[0].message

        self.assertEqual(message(sandmill.natural, "-1"), "`x` is not a non-negative whole number: -1")
        self.assertEqual(message(sandmill.natural, "1e400"), "`x` is not a non-negative whole number: inf")
        self.assertEqual(message(sandmill.text, "null"), "`x` is not a string: None")
        self.assertEqual(message(sandmill.text, "[" * 500 + "]" * 500), "`x` is not a string: a list")
        self.assertEqual(len(message(sandmill.natural, json.dumps("y" * 5_000))), 242)

    def test_whole_numbers_keep_every_digit_and_an_infinite_one_is_refused(self):
        changes = answer(lambda document, data: data, ['{"x":%s}' % ("9" * 5_000)]).changes
        self.assertEqual(changes[0].value.data, '{"x":%s}' % ("9" * 5_000))
        with self.assertRaises(ValueError):
            answer(lambda document, data: data, ['{"x":1e400}'])
        changes = answer(lambda document, data: data, ['{"x":-0,"y":-0.0}']).changes
        self.assertEqual(changes[0].value.data, '{"x":0,"y":-0.0}')

    def test_an_event_changes_several_documents_and_a_failing_one_none_with_any_size_of_batches(self):
        data = [
            {"deeds": [("a", "x", 2), ("b", "x", 3)]},
            {"deeds": [("a", "x", 5), ("a", "y", 1), ("a", "x", -7), ("b", "z", 1)], "fail": "skip"},
            {"deeds": [("a", "x", 1), ("b", "y", 4), ("a", "x", 1)]},
            {"deeds": [("b", "x", -3)]},
            {"deeds": [("a", "z", 1), ("a", "z", -1)]},
            {"deeds": [("a", "x", 9)], "fail": "stop"},
            {"deeds": [("a", "x", 100)]},
        ]
        expected = ({"a/x": '{"sum":4}', "b/y": '{"sum":4}'}, [(1, "asked"), (5, "asked", True)])
        for size in (1, 2, 3, len(data)):
            for named in (True, False):
                self.assertEqual(outcome(sums(named), data, size), expected, (size, named))

    def test_each_collection_is_read_once_per_batch_and_an_unnamed_document_when_an_event_asks_for_it(self):
        data = [{"deeds": [("a", "x", 1), ("b", "x", 1)]}, {"deeds": [("a", "y", 1), ("b", "x", 1), ("a", "x", 1)]}]
        outcome(sums(), data, 2)
        self.assertEqual(reads, [("a", ["x", "y"]), ("b", ["x"])])
        outcome(sums(False), data, 2)
        self.assertEqual(reads, [("a", ["x"]), ("b", ["x"]), ("a", ["y"])])

    def test_documents_of_one_collection_can_name_those_of_the_next_as_they_were_before_the_batch(self):
        plugin = sandmill.View("p")
        plugin.reads("a")(lambda data: ["x"])
        plugin.reads("b")(lambda data, event, view: (view.get("a", "x") or {"of": []})["of"])

        @plugin.on("E")
        def replace(view, data, event):
            for id in (view.get("a", "x") or {"of": []})["of"]:
                view.remove("b", id)
            for id in data["of"]:
                view.put("b", id, {})
            view.put("a", "x", {"of": data["of"]})

        documents, _ = outcome(plugin, [{"of": ["1", "2"]}, {"of": ["2", "3"]}, {"of": ["4"]}], 1)
        self.assertEqual(list(documents), ["a/x", "b/4"])
        self.assertEqual(reads[-2:], [("a", ["x"]), ("b", ["2", "3"])])

    def test_a_document_is_a_copy_stored_as_it_was_when_it_was_put(self):
        plugin = sandmill.View("p")
        plugin.reads("a")(lambda data: ["x"])

        @plugin.on("E")
        def grow(view, data):
            document = view.get("a", "x") or {"list": (), 1: 2}
            document["list"] = [*document["list"], 1]
            view.put("a", "x", document)
            document["list"].append("later")
            self.assertEqual(view.get("a", "x")["1"], 2)
            view.get("a", "x")["list"].append("nowhere")

        self.assertEqual(outcome(plugin, [{}, {}], 2)[0], {"a/x": '{"list":[1,1],"1":2}'})

    def test_mistakes_with_a_view_end_the_call_with_a_remedy(self):
        def ended(handler):
            plugin = sandmill.View("p")
            plugin.reads("a")(lambda data: [])
            plugin.on("E")(handler)
            with self.assertRaises((TypeError, AttributeError)):
                outcome(plugin, [{}], 1)
            return lines[0][1].splitlines()[0]

        unlisted = "TypeError: the collection 'b' has no function for `reads`; mark one with `@plugin.reads`"
        self.assertEqual(ended(lambda view, data: view.get("b", "x")), unlisted)
        no_dict = "TypeError: the document 'x' of `a` is not a dict: a list"
        self.assertEqual(ended(lambda view, data: view.put("a", "x", [])), no_dict)
        no_string = "TypeError: the id of a document of `a` is not a string: 7"
        self.assertEqual(ended(lambda view, data: view.put("a", 7, {})), no_string)
        self.assertIn("the function of `E` returned a value", ended(lambda view, data: {}))

    def test_reading_documents_ahead_changes_no_outcome(self):
        def plugin(ids):
            plugin = sandmill.View("p")
            plugin.reads("a")(ids)
            plugin.on("E")(lambda view, data: view.put("a", "y" if view.get("a", "x") is not None else "x", {}))
            return plugin

        for ids in (
            lambda data: raises(sandmill.Skip("bad"))(None, data),
            lambda data, event, view: view.put("a", "x", {}),
            lambda data: ["", "\0", HALF, 7, None, "é" * 257],
            lambda data: data["missing"],
        ):
            self.assertEqual(outcome(plugin(ids), [{}, {}], 2), ({"a/x": "{}", "a/y": "{}"}, []))
            self.assertEqual(reads, [("a", ["x"])])
        warning = "`reads` of `a` failed for the event e; its documents are read one at a time, which is slower: KeyError: 'missing'"
        self.assertEqual(lines[0], ("WARN", warning))
        outcome(plugin(lambda data: ["é" * 256]), [{}], 1)
        self.assertEqual(reads[0], ("a", ["é" * 256]))


if __name__ == "__main__":
    unittest.main()
