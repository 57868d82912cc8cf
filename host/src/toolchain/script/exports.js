// The wrapper module of a component: it exports the functions of `plugin.js`. An exception that
// ends a call is logged with its stack, as the sandbox sees only a trap.

import { log } from 'sandmill:processor/logging@0.1.0';
import * as plugin from './plugin.js';

const REPORTED = Symbol.for('sandmill.reported');
const LONE_SURROGATE = /[\ud800-\udfff]/gu;

function report(error) {
  // The SDK has logged an exception of its own functions already.
  if (REPORTED in globalThis && Object.is(globalThis[REPORTED], error)) return;
  const stack = String(error?.stack ?? '').split('\n').filter((line) => !line.includes('sandmill_exports.js'));
  const text = [String(error), ...stack].join('\n').trimEnd();
  log('critical', 'exception', text.replace(LONE_SURROGATE, '\ufffd'));
}

function exported(name, method) {
  const functions = plugin[name];
  if (typeof functions?.[method] !== 'function') {
    throw new TypeError(`plugin.js exports no \`${name}\` with a function \`${method}\``);
  }
  return {
    [method](...given) {
      try {
        return functions[method](...given);
      } catch (error) {
        report(error);
        throw error;
      }
    },
  };
}

export const description = exported('description', 'describe');
export const projector = exported('projector', 'project');
