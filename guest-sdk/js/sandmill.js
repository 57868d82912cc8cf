// Sandmill plugins in JavaScript: documents that events evolve, an event one document.
//
// An author says what the plugin is, what a document begins as, and for each event type what it makes of the document; batches, reading and
// writing are done here. A batch costs one read, and one write for each changed document. `evolve` functions give a new document back and leave
// the old one as it was, so an event that fails leaves no trace. There is no clock and no randomness, and asking for either says so:
// time and ids come from the event, or the same events would not lead to the same documents.

import { getMany } from 'sandmill:processor/documents@0.1.0';
import { log as write } from 'sandmill:processor/logging@0.1.0';
export { get as setting } from 'sandmill:processor/settings@0.1.0';

/** What a plugin throws when an event cannot be handled. Made by `skip`, `retry` and `stop`. */
export class Failure extends Error {
  constructor(action, code, message) {
    super(message);
    Object.assign(this, { action, code });
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

const invalid = (name, expected, value) => skip('invalid-data', `\`${name}\` is not ${expected}: ${JSON.stringify(value)}`);

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

  function describe() {
    return {
      id: plugin.id,
      version: plugin.version ?? '',
      eventTypes: Object.keys(events),
      collections: [collection],
      partitionBy: plugin.partitionBy ?? { tag: 'tenant' },
      start: plugin.start ?? 'beginning',
      readModelVersion: plugin.readModelVersion ?? 1,
      maxBatchSize: plugin.maxBatchSize ?? null,
    };
  }

  function project(batch) {
    const entries = new Map();
    const steps = batch.events.map((event) => attempt(() => {
      const data = JSON.parse(event.data);
      const id = documentId(data, event);
      let entry = entries.get(id);
      if (entry === undefined) entries.set(id, (entry = { id, document: null, existed: false, changed: false }));
      return { event, data, entry };
    }));
    read(collection, [...entries.values()]);

    const projection = { changes: [], skipped: [], halted: null };
    for (const [index, step] of steps.entries()) {
      const failure = step instanceof Failure ? step : attempt(() => evolve(events, step, initial));
      if (!(failure instanceof Failure)) continue;
      const { action, code, message } = failure;
      if (action.tag === 'skip') {
        projection.skipped.push({ index, code, message });
      } else {
        projection.halted = { index, action, code, message };
        break;
      }
    }
    for (const { id, document, existed, changed } of entries.values()) {
      if (!changed) continue;
      if (document !== null) {
        projection.changes.push({ tag: 'put', val: { collection, id, data: JSON.stringify(document) } });
      } else if (existed) {
        projection.changes.push({ tag: 'remove', val: { collection, id } });
      }
    }
    return projection;
  }

  return { description: { describe: aloud(describe) }, projector: { project: aloud(project) } };
}

/** Reads all documents of a batch at once. */
function read(collection, entries) {
  if (entries.length === 0) return;
  getMany(collection, entries.map((entry) => entry.id)).forEach((stored, number) => {
    if (stored === null || stored === undefined) return;
    entries[number].document = JSON.parse(stored);
    entries[number].existed = true;
  });
}

function evolve(events, { event, data, entry }, initial) {
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

/** Says what ended a call before the sandbox sees nothing but a trap. */
function aloud(body) {
  return (...given) => {
    try {
      return body(...given);
    } catch (error) {
      write('critical', 'exception', `${error}\n${error?.stack ?? ''}`.trimEnd());
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
