// Tests of the SDK in Node.js, with a fake host: `node --test guest-sdk/js/`.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { pathToFileURL } from 'node:url';

const host = (globalThis.host = { lines: [], documents: new Map(), reads: [] });
const PARTS = {
  documents: 'export const getMany = (of, ids) => (globalThis.host.reads.push([of, ids]), ids.map((id) => globalThis.host.documents.get(id)));',
  logging: 'export const log = (level, context, message) => globalThis.host.lines.push([level, message]);',
  settings: "export const get = (key) => (key === 'limit' ? '7' : undefined);",
};
const folder = mkdtempSync(join(tmpdir(), 'sandmill-'));
let source = readFileSync(new URL('sandmill.js', import.meta.url), 'utf8');
for (const [part, code] of Object.entries(PARTS)) {
  writeFileSync(join(folder, `${part}.mjs`), code);
  source = source.replace(`'sandmill:processor/${part}@0.1.0'`, `'./${part}.mjs'`);
}
writeFileSync(join(folder, 'sandmill.mjs'), source);
const sdk = await import(pathToFileURL(join(folder, 'sandmill.mjs')));
rmSync(folder, { recursive: true });
const { documents, log, natural, setting, skip, stop, text, view } = sdk;

const HALF = 'ab😀x'.slice(0, 3);
const REPLACED = 'ab\ufffd';

/** The answer of a plugin to events of the type E with these data. */
function answer(E, data, more = {}) {
  host.lines = [];
  const plugin = documents({ id: 'p', collection: 'c', initial: { n: 0 }, events: { E }, ...more });
  const events = data.map((data, index) => ({ data, eventType: 'E', streamId: `s${index}` }));
  return plugin.projector.project({ events });
}

const counts = (document) => ({ n: document.n + 1 });

/** The answer's failures, as [index, code, message]. */
const failures = ({ skipped, halted }) => [...skipped, halted ?? []].flat().map(({ index, code, message }) => [index, code, message]);

test('a lone surrogate in a text for people becomes U+FFFD', () => {
  const skips = answer(() => { throw skip(HALF, HALF); }, ['{}']);
  assert.deepEqual(failures(skips), [[0, REPLACED, REPLACED]]);
  const stops = answer(() => { throw stop('code', HALF); }, ['{}']);
  assert.deepEqual(failures(stops), [[0, 'code', REPLACED]]);
  host.lines = [];
  log.info(HALF, { half: HALF }, '😀');
  console.log('\udc00');
  assert.deepEqual(host.lines, [['info', `${REPLACED} {"half":"ab\\ud83d"} 😀`], ['info', '\ufffd']]);
});

test('a lone surrogate in the message of an exception does not hide the exception', () => {
  assert.throws(() => answer(() => { throw new Error(HALF); }, ['{}']));
  assert.match(host.lines[0][1], /^Error: ab\ufffd\n/);
  assert.throws(() => answer(() => { throw HALF; }, ['{}']));
  assert.deepEqual(host.lines, [['critical', REPLACED]]);
});

test('a lone surrogate that would change data is refused with a remedy', () => {
  const refused = (E, more) => {
    assert.throws(() => answer(E, ['{}'], more), TypeError);
    return host.lines[0][1].split('\n')[0];
  };
  const remedy = "contains half a character (a lone surrogate): \"ab\\ud83d\". Cut strings between characters, as [...text].slice(0, 3).join('') does";
  assert.equal(refused(counts, { documentId: () => HALF }), `TypeError: the id of a document of \`c\` ${remedy}`);
  assert.equal(refused(() => ({ a: [{ b: HALF }] })), `TypeError: \`b\` in the document "s0" of \`c\` ${remedy}`);
  assert.equal(refused(() => ({ [HALF]: 1 })), `TypeError: a name in the document "s0" of \`c\` ${remedy}`);
  assert.equal(refused(counts, { documentId: () => 7 }), 'TypeError: the id of a document of `c` is not a string: 7');
  const { changes } = answer(() => ({ a: '\\ud83d 😀' }), ['{}'], { documentId: () => '😀' });
  assert.equal(changes[0].val.data, '{"a":"\\\\ud83d 😀"}', 'an escaped backslash is no surrogate');
  assert.throws(() => setting(HALF), /the key of a setting contains half a character/);
  assert.equal(setting('limit'), '7');
});

test('unreadable data is skipped, and all data that a store accepts is readable', () => {
  const nested = (levels, inner = '') => `{"x":${'['.repeat(levels - 1)}${inner}${']'.repeat(levels - 1)}}`;
  const wide = `[${'{"a":[]},'.repeat(2000)}"${'[\\"'.repeat(2000)}"]`;
  const data = [nested(512), nested(513), nested(100_000), wide, '9'.repeat(5_000), '{"x":1e400}', '', '[1', nested(512, '"\\\\"'), nested(513, '"]"')];
  const answered = answer(counts, data);
  const deep = 'the data is nested deeper than 512 levels';
  assert.deepEqual(
    failures(answered).map(([index, code, message]) => [index, code, message === deep]),
    [[1, 'invalid-data', true], [2, 'invalid-data', true], [6, 'invalid-data', false], [7, 'invalid-data', false], [9, 'invalid-data', true]],
  );
  assert.match(failures(answered)[2][2], /^the data is not readable JSON: ./);
  assert.deepEqual(answered.changes.map(({ val }) => val.id), ['s0', 's3', 's4', 's5', 's8']);
});

test('an unreadable document stops the lane before an event that needs it', () => {
  host.documents = new Map([['s1', '{'], ['s0', '{"n":4}']]);
  const answered = answer(counts, ['{}', '{}', '{}']);
  host.documents = new Map();
  assert.deepEqual(answered.changes.map(({ val }) => [val.id, val.data]), [['s0', '{"n":5}']]);
  assert.equal(answered.halted.index, 1);
  assert.equal(answered.halted.code, 'unreadable-document');
});

test('a message shows a wrong value, but only the kind of an array', () => {
  const message = (read, value) => failures(answer((_, data) => read(data, 'x'), [`{"x":${value}}`]))[0][2];
  assert.equal(message(natural, '-1'), '`x` is not a non-negative whole number: -1');
  assert.equal(message(natural, '1e400'), '`x` is not a non-negative whole number: Infinity');
  assert.equal(message(natural, '9007199254740993'), '`x` is not a non-negative whole number: 9007199254740992');
  assert.equal(message(text, 'null'), '`x` is not a string: null');
  assert.equal(message(text, `${'['.repeat(500)}${']'.repeat(500)}`), '`x` is not a string: an array');
  assert.equal(message(natural, `"${'y'.repeat(5_000)}"`).length, 242);
});

test('a negative zero is written as zero', () => {
  const { changes } = answer((_, { x }) => ({ x, is: Object.is(x, -0) }), ['{"x":-0}']);
  assert.equal(changes[0].val.data, '{"x":0,"is":true}');
});

/** Sums in the collections `a` and `b`, by `data.deeds`. A document with the sum zero is removed. */
const sums = (named = true) => view({
  id: 'sums',
  reads: Object.fromEntries(['a', 'b'].map((of) => [of, ({ deeds }) => deeds.filter(([other]) => named && other === of).map(([, id]) => id)])),
  events: {
    E(view, { deeds, fail }) {
      for (const [collection, id, add] of deeds) {
        const sum = (view.get(collection, id)?.sum ?? 0) + add;
        if (sum === 0) view.remove(collection, id);
        else view.put(collection, id, { sum });
      }
      if (fail) throw { skip, stop }[fail]('asked');
    },
  },
});

/** The documents and failures after events of the type E, handled in batches of a size. */
function outcome(plugin, data, size) {
  const [stored, failed] = [new Map(), []];
  host.reads = [];
  host.documents = { get: (id) => stored.get(`${host.reads.at(-1)[0]}/${id}`) };
  for (let at = 0; at < data.length && failed.at(-1)?.at(-1) !== true; at += size) {
    const events = data.slice(at, at + size).map((data) => ({ data: JSON.stringify(data), eventType: 'E', streamId: 's' }));
    const { changes, skipped, halted } = plugin.projector.project({ events });
    for (const { tag, val } of changes) {
      const id = `${val.collection}/${val.id}`;
      if (tag === 'put') stored.set(id, val.data);
      else assert(stored.delete(id), `${id} was removed but does not exist`);
    }
    failed.push(...skipped.map(({ index, code }) => [at + index, code]));
    if (halted) failed.push([at + halted.index, halted.code, true]);
  }
  host.documents = new Map();
  return { documents: Object.fromEntries([...stored].sort()), failed };
}

test('an event changes several documents, and a failing one none, with any size of batches', () => {
  const data = [
    { deeds: [['a', 'x', 2], ['b', 'x', 3]] },
    { deeds: [['a', 'x', 5], ['a', 'y', 1], ['a', 'x', -7], ['b', 'z', 1]], fail: 'skip' },
    { deeds: [['a', 'x', 1], ['b', 'y', 4], ['a', 'x', 1]] },
    { deeds: [['b', 'x', -3]] },
    { deeds: [['a', 'z', 1], ['a', 'z', -1]] },
    { deeds: [['a', 'x', 9]], fail: 'stop' },
    { deeds: [['a', 'x', 100]] },
  ];
  const expected = { documents: { 'a/x': '{"sum":4}', 'b/y': '{"sum":4}' }, failed: [[1, 'asked'], [5, 'asked', true]] };
  for (const size of [1, 2, 3, data.length]) {
    for (const named of [true, false]) assert.deepEqual(outcome(sums(named), data, size), expected, `${size}, ${named}`);
  }
});

test('each collection is read once per batch, and an unnamed document when an event asks for it', () => {
  const data = [{ deeds: [['a', 'x', 1], ['b', 'x', 1]] }, { deeds: [['a', 'y', 1], ['b', 'x', 1], ['a', 'x', 1]] }];
  outcome(sums(), data, 2);
  assert.deepEqual(host.reads, [['a', ['x', 'y']], ['b', ['x']]]);
  outcome(sums(false), data, 2);
  assert.deepEqual(host.reads, [['a', ['x']], ['b', ['x']], ['a', ['y']]]);
});

test('documents of one collection can name those of the next, as they were before the batch', () => {
  const plugin = view({
    id: 'p',
    reads: { a: () => ['x'], b: (data, event, before) => before.get('a', 'x')?.of ?? [] },
    events: {
      E(view, { of }) {
        for (const id of view.get('a', 'x')?.of ?? []) view.remove('b', id);
        for (const id of of) view.put('b', id, {});
        view.put('a', 'x', { of });
      },
    },
  });
  const { documents } = outcome(plugin, [{ of: ['1', '2'] }, { of: ['2', '3'] }, { of: ['4'] }], 1);
  assert.deepEqual(Object.keys(documents), ['a/x', 'b/4']);
  assert.deepEqual(host.reads.slice(-2), [['a', ['x']], ['b', ['2', '3']]]);
});

test('a document is a copy, stored as it was when it was put', () => {
  const plugin = view({
    id: 'p',
    reads: { a: () => ['x'] },
    events: {
      E(view) {
        const document = view.get('a', 'x') ?? { list: [], none: undefined };
        document.list.push(1);
        view.put('a', 'x', document);
        document.list.push('later');
        assert.deepEqual(Object.keys(view.get('a', 'x')), ['list']);
        view.get('a', 'x').list.push('nowhere');
      },
    },
  });
  assert.deepEqual(outcome(plugin, [{}, {}], 2).documents, { 'a/x': '{"list":[1,1]}' });
});

test('mistakes with a view end the call with a remedy', () => {
  const ended = (E, reads = { a: () => [] }) => {
    host.lines = [];
    assert.throws(() => outcome(view({ id: 'p', reads, events: { E } }), [{}], 1), TypeError);
    return host.lines[0][1].split('\n')[0];
  };
  assert.equal(ended((view) => view.get('b', 'x')), 'TypeError: the collection "b" is not listed in `reads`; add it there');
  assert.equal(ended((view) => view.put('a', 'x', [])), 'TypeError: the document "x" of `a` is not an object: an array');
  assert.equal(ended((view) => view.put('a', 7, {})), 'TypeError: the id of a document of `a` is not a string: 7');
  assert.match(ended(async () => {}), /the function of `E` returned a value; return nothing, change documents with view.put and view.remove, and do not make it async/);
});

test('reading documents ahead changes no outcome', () => {
  const data = [{ deeds: [['a', 'x', 1]] }];
  const plugin = (ids) => view({ id: 'p', reads: { a: ids }, events: { E: (view) => view.put('a', view.get('a', 'x') ? 'y' : 'x', {}) } });
  const expected = { documents: { 'a/x': '{}', 'a/y': '{}' }, failed: [] };
  for (const ids of [
    () => { throw skip('bad'); },
    (data) => data.missing.map(String),
    (data, event, before) => before.put('a', 'x', {}),
    () => ['', '\0', HALF, 7, null, 'é'.repeat(257)],
    () => undefined,
  ]) {
    host.lines = [];
    assert.deepEqual(outcome(plugin(ids), [...data, ...data], 2), expected);
    assert.deepEqual(host.reads, [['a', ['x']]]);
  }
  assert.match(host.lines[0][1], /^`reads` of `a` failed for the event .*; its documents are read one at a time, which is slower: TypeError: /);
  outcome(plugin(() => ['é'.repeat(256)]), data, 1);
  assert.deepEqual(host.reads[0], ['a', ['é'.repeat(256)]]);
});
