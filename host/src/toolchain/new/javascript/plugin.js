// What is on each account: one document for each stream.

import { documents, natural } from 'sandmill';

export const { description, projector } = documents({
  id: '{{name}}',
  version: '0.1.0',
  collection: '{{collection}}',
  // A document begins as this.
  initial: { balance: 0, bookings: 0 },
  // What does an event of each type do to its document? A new one is given back, the old one stays as it was.
  events: {
    Deposited: (account, data) => booked(account, natural(data, 'cents')),
    Withdrawn: (account, data) => booked(account, -natural(data, 'cents')),
  },
  // Which document does an event belong to?
  documentId: (data, event) => event.streamId,
});

function booked({ balance, bookings }, cents) {
  return { balance: balance + cents, bookings: bookings + 1 };
}
