// The balance of each account: one document per stream.

import { documents, natural } from 'sandmill';

export const { description, projector } = documents({
  id: '{{name}}',
  version: '0.1.0',
  collection: '{{collection}}',
  // The initial state of a document.
  initial: { balance: 0, entries: 0 },
  // One function per event type. It returns a new document and must not change the old one.
  events: {
    Deposited: (account, data) => posted(account, natural(data, 'cents')),
    Withdrawn: (account, data) => posted(account, -natural(data, 'cents')),
  },
  // The id of the document that an event changes.
  documentId: (data, event) => event.streamId,
});

function posted({ balance, entries }, cents) {
  return { balance: balance + cents, entries: entries + 1 };
}
