// Sandmill plugins in JavaScript: `documents`, where an event changes one document, and `view`, where it changes several.
//
// An author describes the plugin and writes a function for each event type; batches, reading and writing are done here. A batch costs one read
// of each collection, and one write for each changed document. An event that fails leaves no trace. There is no clock and no randomness, and
// asking for either says so: time and ids come from the event, or the same events would not lead to the same documents.

import { getMany } from 'sandmill:processor/documents@0.1.0';
import { log as writeLine } from 'sandmill:processor/logging@0.1.0';
import { get } from 'sandmill:processor/settings@0.1.0';

/** Levels of arrays and objects that an event's data may have: all that a store accepts. Much deeper data would use up the guest's stack. */
const LEVELS = 512;
/** Documents that one read names: half of what a host allows by default (`limits.reads`). */
const READ_AT_ONCE = 10_000;

// With the flag `u` a pair of surrogates is one character, so this matches halves alone.
const HALF = /[\ud800-\udfff]/u;
const HALVES = new RegExp(HALF, 'gu');

/** A text for people, with U+FFFD in place of half characters, which no text of the contract can hold. */
const readable = (text) => String(text ?? '').replace(HALVES, '\ufffd');

/** A text that has to stay as it is. */
function exact(what, text) {
  if (typeof text !== 'string') throw new TypeError(`${what} is not a text: ${shown(text)}`);
  if (HALF.test(text)) {
    throw new TypeError(`${what} holds half a character: ${JSON.stringify(text)}. Cut texts between characters, as [...text].slice(0, 3).join('') does`);
  }
  return text;
}

const write = (level, context, message) => writeLine(level, context, readable(message));

/** What an operator set under a key; undefined where nothing is set. */
export const setting = (key) => get(exact('the key of a setting', key)) ?? undefined;

/** What a plugin throws when an event cannot be handled. Made by `skip`, `retry` and `stop`. */
export class Failure extends Error {
  constructor(action, code, message) {
    super(readable(message));
    Object.assign(this, { action, code: readable(code) });
  }
}

/** Sets the event aside as a dead letter; the lane goes on. `throw skip('too-few', '…')`. */
export const skip = (code, message = '') => new Failure({ tag: 'skip' }, code, message);
/** Tries the event again later: when the policy says so, or not before so many milliseconds. */
export const retry = (code, message = '', after) =>
  new Failure(after === undefined ? { tag: 'retry' } : { tag: 'retry-after', val: after }, code, message);
/** Stops the lane until a person resumes it. */
export const stop = (code, message = '') => new Failure({ tag: 'stop' }, code, message);

/** A whole number, not negative, of an event's data. An event without it is set aside with the code `invalid-data`. */
export function natural(data, name) {
  const value = data?.[name];
  if (!Number.isSafeInteger(value) || value < 0) throw invalid(name, 'a whole number that is not negative', value);
  return value;
}

/** A text of an event's data. An event without it is set aside with the code `invalid-data`. */
export function text(data, name) {
  const value = data?.[name];
  if (typeof value !== 'string') throw invalid(name, 'a text', value);
  return value;
}

const invalid = (name, expected, value) => skip('invalid-data', `\`${name}\` is not ${expected}: ${shown(value)}`);

/** A value for a message. Arrays and objects may be as large and as deep as an event. */
function shown(value) {
  if (value !== null && typeof value === 'object') return Array.isArray(value) ? 'an array' : 'an object';
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 200)) : String(value);
}

/** An event's data. What cannot be read is set aside with the code `invalid-data`. */
function parse(data) {
  if (isTooDeep(data)) throw skip('invalid-data', `the data nests deeper than ${LEVELS} levels`);
  try {
    return JSON.parse(data);
  } catch (error) {
    throw skip('invalid-data', `the data cannot be read: ${error.message}`);
  }
}

/** Whether a text nests deeper than can be read. Most texts are too short for that, or hold too few brackets. */
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

/** How often a sign occurs; counted no further than it matters. */
function occurs(text, sign) {
  let count = 0;
  for (let at = text.indexOf(sign); at >= 0 && count <= LEVELS; at = text.indexOf(sign, at + 1)) count++;
  return count;
}

/** Where the quote stands that ends the string whose first quote is here. */
function endOfString(text, from) {
  for (let at = text.indexOf('"', from + 1); at >= 0; at = text.indexOf('"', at + 1)) {
    let before = at - 1;
    while (text[before] === '\\') before--;
    if ((at - before) % 2 === 1) return at;
  }
  return text.length;
}

/** A document as JSON. `JSON.stringify` escapes half characters, and no database holds them. */
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
 * Makes a plugin of events that evolve documents. Export what it gives:
 *
 *     export const { description, projector } = documents({ id, version, collection, initial, events });
 *
 * `events` has a function for each event type, `(document, data, event) => document`; it gives `null` for a document that goes.
 * `documentId`, `(data, event) => id`, finds the document by something else than the event's stream. `partitionBy`, `start`,
 * `readModelVersion` and `maxBatchSize` are those of the contract.
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
 * Makes a plugin whose events change several documents each. Export its result:
 *
 *     export const { description, projector } = view({ id, version, reads, events });
 *
 * `events` has a function for each event type, `(view, data, event)`, which calls `view.get(collection, id)`, `view.put(collection, id,
 * document)` and `view.remove(collection, id)`. It sees the writes of earlier events and its own; the writes of one that throws are discarded.
 *
 * `reads` has an entry for each of the plugin's collections: a function `(data, event, view)` that names the ids of the documents that an event
 * needs. Collections are read in this order, each once for a batch, so `view.get` there shows documents of the ones before, as they were before
 * the batch. It is for speed alone and changes no outcome: a document that is not named is read when an event asks for it.
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
          write('warn', '', `\`reads\` of \`${collection}\` failed for the event ${event.id}, whose documents are read one by one: ${error}`);
        }
      }
      documents.read(collection, named);
    }
    const failures = handleEach(steps, ({ event, data }) => documents.keepIfDone(() => {
      if (events[event.eventType](documents.view, data, event) !== undefined) {
        throw new TypeError(`\`${event.eventType}\` returned a value; return nothing, change documents with view.put and view.remove, and do not make it async`);
      }
    }));
    return { changes: documents.changes(), ...failures };
  }

  return exported(plugin, Object.keys(reads), project);
}

/**
 * The documents of a batch: `view` for events, `before` for `reads`. They are kept as JSON, so an
 * event finds the same document whether it was written in this batch or in an earlier one.
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
        throw new TypeError(`the document ${shown(id)} of \`${collection}\` is no object: ${shown(document)}`);
      }
      write(collection, id, stringify(collection, id, document));
    },
    remove: (collection, id) => write(collection, id, null),
  };

  /** Handles an event, and discards its writes if it fails. */
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

/** Whether a value can be a document's id: a text of 1 to 512 bytes. */
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

  return { description: { describe: aloud(describe) }, projector: { project: aloud(project) } };
}

/** Handles events in order, up to one that stops the lane. A step is an event, or its failure. */
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
    throw new TypeError(`\`${event.eventType}\` gave no document back; it returns an object, or null for a document that goes`);
  }
  entry.document = evolved;
  entry.changed = true;
}

/** The failure that was thrown, or else what was returned. Other errors are mistakes of the plugin and end the call. */
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

/** Says what ended a call before the sandbox sees nothing but a trap. */
function aloud(body) {
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

/** Log lines, at the levels of the contract. `console` goes the same way. */
export const log = Object.fromEntries(['trace', 'debug', 'info', 'warn', 'error', 'critical'].map((level) => [level, line(level)]));
globalThis.console = { ...log, log: log.info };

const none = (what) => () => {
  throw new Error(`a plugin has no ${what}: take what you need from the event, so that the same events lead to the same documents`);
};
Math.random = none('randomness');
Date.now = none('clock');
globalThis.Date = new Proxy(Date, {
  construct: (date, given, target) => (given.length > 0 ? Reflect.construct(date, given, target) : Date.now()),
  apply: () => Date.now(),
});
