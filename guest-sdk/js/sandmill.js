// The SDK for Sandmill plugins in JavaScript: `documents` if an event changes one document, `view`
// if it changes several.
//
// An author describes the plugin and writes a function per event type. The SDK handles batches,
// reads and writes: one read per collection and batch, and one write per changed document. A
// failing event has no effects. There is no clock and no randomness, and using them is an error:
// time and ids come from the event, so that equal events produce equal documents.

import { getMany } from 'sandmill:processor/documents@0.1.0';
import { log as writeLine } from 'sandmill:processor/logging@0.1.0';
import { get } from 'sandmill:processor/settings@0.1.0';

/**
 * Deepest nesting of an event's data, levels: the limit of a store. Much deeper data would exhaust
 * the guest's stack.
 */
const LEVELS = 512;
/** Most documents in one read: half of what a host allows by default (`limits.reads`). */
const READ_AT_ONCE = 10_000;

// With the flag `u` a surrogate pair is one character, so this matches only lone surrogates.
const HALF = /[\ud800-\udfff]/u;
const HALVES = new RegExp(HALF, 'gu');

/** A text for people. U+FFFD replaces lone surrogates, which the contract's strings cannot have. */
const readable = (text) => String(text ?? '').replace(HALVES, '\ufffd');

/** A string that must not be changed. Throws if it is none, or contains a lone surrogate. */
function exact(what, text) {
  if (typeof text !== 'string') throw new TypeError(`${what} is not a string: ${shown(text)}`);
  if (HALF.test(text)) {
    const cut = "Cut strings between characters, as [...text].slice(0, 3).join('') does";
    throw new TypeError(`${what} contains half a character (a lone surrogate): ${JSON.stringify(text)}. ${cut}`);
  }
  return text;
}

const write = (level, context, message) => writeLine(level, context, readable(message));

/** The value of a setting; undefined if it is not set. */
export const setting = (key) => get(exact('the key of a setting', key)) ?? undefined;

/** The error that a plugin throws to fail an event. Made by `skip`, `retry` and `stop`. */
export class Failure extends Error {
  constructor(action, code, message) {
    super(readable(message));
    Object.assign(this, { action, code: readable(code) });
  }
}

/** Sets the event aside as a dead letter; the lane continues. `throw skip('too-few', '…')`. */
export const skip = (code, message = '') => new Failure({ tag: 'skip' }, code, message);
/** Retries the event after the policy's back-off, or after `after` milliseconds or later. */
export const retry = (code, message = '', after) =>
  new Failure(after === undefined ? { tag: 'retry' } : { tag: 'retry-after', val: after }, code, message);
/** Stops the lane before the event until a person resumes it. */
export const stop = (code, message = '') => new Failure({ tag: 'stop' }, code, message);

/** A non-negative whole number in an event's data. Otherwise skips with the code `invalid-data`. */
export function natural(data, name) {
  const value = data?.[name];
  if (!Number.isSafeInteger(value) || value < 0) throw invalid(name, 'a non-negative whole number', value);
  return value;
}

/** A string in an event's data. Otherwise skips with the code `invalid-data`. */
export function text(data, name) {
  const value = data?.[name];
  if (typeof value !== 'string') throw invalid(name, 'a string', value);
  return value;
}

const invalid = (name, expected, value) => skip('invalid-data', `\`${name}\` is not ${expected}: ${shown(value)}`);

/** A value for a message. Arrays and objects are not shown, as they may be as large as an event. */
function shown(value) {
  if (value !== null && typeof value === 'object') return Array.isArray(value) ? 'an array' : 'an object';
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 200)) : String(value);
}

/** An event's data, parsed. Unreadable data skips the event with the code `invalid-data`. */
function parse(data) {
  if (isTooDeep(data)) throw skip('invalid-data', `the data is nested deeper than ${LEVELS} levels`);
  try {
    return JSON.parse(data);
  } catch (error) {
    throw skip('invalid-data', `the data is not readable JSON: ${error.message}`);
  }
}

/** Whether a text is nested too deep. Most texts are too short, or have too few brackets. */
function isTooDeep(text) {
  if (text.length <= 2 * LEVELS || occurs(text, '[') + occurs(text, '{') <= LEVELS) return false;
  let level = 0;
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case '"':
        at = endOfString(text, at);
        break;
      case '[':
      case '{':
        level++;
        if (level > LEVELS) return true;
        break;
      case ']':
      case '}':
        level--;
    }
  }
  return false;
}

/** How often a character occurs, counted up to the limit of levels. */
function occurs(text, character) {
  let count = 0;
  for (let at = text.indexOf(character); at >= 0 && count <= LEVELS; at = text.indexOf(character, at + 1)) count++;
  return count;
}

/** The index of the quote that ends the string whose first quote is at `from`. */
function endOfString(text, from) {
  for (let at = text.indexOf('"', from + 1); at >= 0; at = text.indexOf('"', at + 1)) {
    let before = at - 1;
    while (text[before] === '\\') before--;
    if ((at - before) % 2 === 1) return at;
  }
  return text.length;
}

/** A document as JSON. `JSON.stringify` escapes lone surrogates, which no database can store. */
function stringify(collection, id, document) {
  const data = JSON.stringify(document);
  if (data.includes('\\ud')) {
    const what = `the document ${JSON.stringify(id)} of \`${collection}\``;
    JSON.stringify(document, (key, value) => {
      exact(`a name in ${what}`, key);
      return typeof value === 'string' ? exact(`\`${key}\` in ${what}`, value) : value;
    });
  }
  return data;
}

/**
 * Creates a plugin in which an event changes one document. Export the result:
 *
 *     export const { description, projector } = documents({ id, version, collection, initial, events });
 *
 * - `events`: a function per event type, `(document, data, event) => document`. `null` removes the
 *   document.
 * - `initial`: the document before its first event.
 * - `documentId`: `(data, event) => id`. Default: the event's stream.
 * - `partitionBy`, `start`, `readModelVersion`, `maxBatchSize`: as in the contract.
 */
export function documents(plugin) {
  const { collection, events, documentId = (_, event) => event.streamId } = plugin;
  const initial = Object.freeze(plugin.initial);

  function project(batch) {
    const entries = new Map();
    const steps = batch.events.map((event) => attempt(() => {
      const data = parse(event.data);
      const id = documentId(data, event);
      let entry = entries.get(id);
      if (entry === undefined) {
        entry = { id: exact(`the id of a document of \`${collection}\``, id), document: null, existed: false, changed: false };
        entries.set(id, entry);
      }
      return { event, data, entry };
    }));
    read(collection, [...entries.values()]);

    const changes = [];
    const failures = handleEach(steps, (step) => evolve(events, step, initial));
    for (const { id, document, existed, changed } of entries.values()) {
      if (!changed) continue;
      if (document !== null) {
        changes.push(put(collection, id, stringify(collection, id, document)));
      } else if (existed) {
        changes.push(remove(collection, id));
      }
    }
    return { changes, ...failures };
  }

  return exported(plugin, [collection], project);
}

/**
 * Creates a plugin in which an event changes several documents. Export the result:
 *
 *     export const { description, projector } = view({ id, version, reads, events });
 *
 * `events` has a function per event type, `(view, data, event)`. It calls `view.get(collection,
 * id)`, `view.put(collection, id, document)` and `view.remove(collection, id)`. It sees the writes
 * of earlier events and its own. If it throws, its writes are dropped.
 *
 * `reads` has a function per collection of the plugin, `(data, event, view)`, which returns the ids
 * of the documents that an event needs. Collections are read in this order, each once per batch. So
 * `view.get` in such a function shows documents of earlier collections, as they were before the
 * batch. Reading ahead only saves time: a document that is not named is read when an event asks for
 * it.
 */
export function view(plugin) {
  const { reads, events } = plugin;

  function project(batch) {
    const documents = viewOf(Object.keys(reads));
    const steps = batch.events.map((event) => attempt(() => ({ event, data: parse(event.data) })));
    const readable = steps.filter((step) => !(step instanceof Failure));
    for (const [collection, ids] of Object.entries(reads)) {
      const named = [];
      for (const { event, data } of readable) {
        try {
          for (const id of ids(data, event, documents.before)) if (isId(id)) named.push(id);
        } catch (error) {
          if (error instanceof Failure) continue;
          const what = `\`reads\` of \`${collection}\` failed for the event ${event.id}`;
          write('warn', '', `${what}; its documents are read one at a time, which is slower: ${error}`);
        }
      }
      documents.read(collection, named);
    }
    const failures = handleEach(steps, ({ event, data }) => documents.keepIfDone(() => {
      if (events[event.eventType](documents.view, data, event) !== undefined) {
        const remedy = 'return nothing, change documents with view.put and view.remove, and do not make it async';
        throw new TypeError(`the function of \`${event.eventType}\` returned a value; ${remedy}`);
      }
    }));
    return { changes: documents.changes(), ...failures };
  }

  return exported(plugin, Object.keys(reads), project);
}

/**
 * The documents of a batch: `view` for events, `before` for `reads`. They are kept as JSON text, so
 * an event finds the same document whether it was written in this batch or in an earlier one.
 */
function viewOf(names) {
  const collections = new Map(names.map((name) => [name, new Map()]));
  let replaced = [];

  function of(collection) {
    const entries = collections.get(collection);
    if (entries === undefined) throw new TypeError(`the collection ${shown(collection)} is not listed in \`reads\`; add it there`);
    return entries;
  }

  function read(collection, ids) {
    const entries = of(collection);
    const unknown = [...new Set(ids)].filter((id) => !entries.has(id));
    for (let at = 0; at < unknown.length; at += READ_AT_ONCE) {
      const part = unknown.slice(at, at + READ_AT_ONCE);
      getMany(collection, part).forEach((stored, number) => {
        const text = stored ?? null;
        entries.set(part[number], { text, absent: text === null, changed: false });
      });
    }
  }

  function get(collection, id) {
    const entries = of(collection);
    if (!entries.has(id)) read(collection, [exact(`the id of a document of \`${collection}\``, id)]);
    const { text } = entries.get(id);
    try {
      return text === null ? null : JSON.parse(text);
    } catch (error) {
      throw stop('unreadable-document', `${collection} ${id}: ${error.message}`);
    }
  }

  function write(collection, id, text) {
    const entries = of(collection);
    const former = entries.get(exact(`the id of a document of \`${collection}\``, id));
    replaced.push([entries, id, former]);
    entries.set(id, { text, absent: former?.absent ?? false, changed: true });
  }

  const view = {
    get,
    put(collection, id, document) {
      if (document === null || typeof document !== 'object' || Array.isArray(document)) {
        throw new TypeError(`the document ${shown(id)} of \`${collection}\` is not an object: ${shown(document)}`);
      }
      write(collection, id, stringify(collection, id, document));
    },
    remove: (collection, id) => write(collection, id, null),
  };

  /** Handles an event, and drops its writes if it throws. */
  function keepIfDone(handle) {
    replaced = [];
    try {
      handle();
    } catch (error) {
      for (const [entries, id, former] of replaced.reverse()) {
        if (former === undefined) entries.delete(id);
        else entries.set(id, former);
      }
      throw error;
    }
  }

  const changes = () => [...collections].flatMap(([collection, entries]) => [...entries].flatMap(([id, { text, absent, changed }]) => {
    if (!changed || (text === null && absent)) return [];
    return [text === null ? remove(collection, id) : put(collection, id, text)];
  }));

  return { view: Object.freeze(view), before: Object.freeze({ get }), read, keepIfDone, changes };
}

/** Whether a value can be a document's id: a string of 1 to 512 bytes. */
const isId = (id) =>
  typeof id === 'string' && id !== '' && !id.includes('\0') && !HALF.test(id) && (id.length <= 128 || unescape(encodeURIComponent(id)).length <= 512);

const put = (collection, id, data) => ({ tag: 'put', val: { collection, id, data } });
const remove = (collection, id) => ({ tag: 'remove', val: { collection, id } });

/** The exports of a plugin. */
function exported(plugin, collections, project) {
  function describe() {
    return {
      id: exact('the id of the plugin', plugin.id),
      version: readable(plugin.version),
      eventTypes: Object.keys(plugin.events).map((type) => exact('an event type', type)),
      collections,
      partitionBy: plugin.partitionBy ?? { tag: 'tenant' },
      start: plugin.start ?? 'beginning',
      readModelVersion: plugin.readModelVersion ?? 1,
      maxBatchSize: plugin.maxBatchSize ?? null,
    };
  }

  return { description: { describe: reporting(describe) }, projector: { project: reporting(project) } };
}

/** Handles events in order, until one stops the lane. A step is an event, or its failure. */
function handleEach(steps, handle) {
  const failures = { skipped: [], halted: null };
  for (const [index, step] of steps.entries()) {
    const failure = step instanceof Failure ? step : attempt(() => handle(step));
    if (!(failure instanceof Failure)) continue;
    const { action, code, message } = failure;
    if (action.tag === 'skip') {
      failures.skipped.push({ index, code, message });
    } else {
      failures.halted = { index, action, code, message };
      break;
    }
  }
  return failures;
}

/** Reads all documents of a batch at once. */
function read(collection, entries) {
  if (entries.length === 0) return;
  getMany(collection, entries.map((entry) => entry.id)).forEach((stored, number) => {
    if (stored === null || stored === undefined) return;
    const entry = entries[number];
    entry.existed = true;
    try {
      entry.document = JSON.parse(stored);
    } catch (error) {
      entry.unreadable = stop('unreadable-document', `${collection} ${entry.id}: ${error.message}`);
    }
  });
}

function evolve(events, { event, data, entry }, initial) {
  if (entry.unreadable) throw entry.unreadable;
  const evolved = events[event.eventType](entry.document ?? initial, data, event);
  if (evolved === undefined || typeof evolved !== 'object' || Array.isArray(evolved)) {
    throw new TypeError(`the function of \`${event.eventType}\` returned no document; return an object, or null to remove the document`);
  }
  entry.document = evolved;
  entry.changed = true;
}

/** The failure that was thrown, or else the result. Other errors are bugs, and end the call. */
function attempt(body) {
  try {
    return body();
  } catch (error) {
    if (error instanceof Failure) return error;
    throw error;
  }
}

// The last error that was reported. The wrapper of `sandmill plugin build` does not repeat it.
const REPORTED = Symbol.for('sandmill.reported');

/** Logs the error that ends a call: the host only sees a trap. */
function reporting(body) {
  return (...given) => {
    try {
      return body(...given);
    } catch (error) {
      write('critical', 'exception', `${String(error)}\n${error?.stack ?? ''}`.trimEnd());
      globalThis[REPORTED] = error;
      throw error;
    }
  };
}

const line = (level) => (...parts) =>
  write(level, '', parts.map((part) => (typeof part === 'string' ? part : JSON.stringify(part) ?? String(part))).join(' '));

/** Log lines, at the levels of the contract. `console` writes the same lines. */
export const log = Object.fromEntries(['trace', 'debug', 'info', 'warn', 'error', 'critical'].map((level) => [level, line(level)]));
globalThis.console = { ...log, log: log.info };

const none = (what) => () => {
  throw new Error(`a plugin has no ${what}; use the event's time and id, so that equal events produce equal documents`);
};
Math.random = none('randomness');
Date.now = none('clock');
globalThis.Date = new Proxy(Date, {
  construct: (date, given, target) => (given.length > 0 ? Reflect.construct(date, given, target) : Date.now()),
  apply: () => Date.now(),
});
