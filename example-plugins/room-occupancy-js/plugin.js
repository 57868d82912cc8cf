// Which rooms are taken on which days: the plugin `room-occupancy` in JavaScript, with the same documents as the one in Rust.
//
// A stream is a booking. The collection `room_occupancy` has a document for each room and day that is taken, under the id `ROOM/DAY`: `room`, `day`
// and `booking`, the stream's id. The collection `bookings` has one for each booking, `room` and `nights`, by which a later event knows what
// to give back. A booking for a night that is taken is set aside as a dead letter with the code `occupied`, and takes no other night either.

import { skip, text, view } from 'sandmill';

export const { description, projector } = view({
  id: 'room-occupancy',
  version: '0.1.0',
  reads: {
    bookings: (data, event) => [event.streamId],
    // What the booking may give back, and what the event takes.
    room_occupancy: (data, event, view) => {
      const stays = [view.get('bookings', event.streamId), event.eventType !== 'BookingCancelled' && stayOf(data)];
      return stays.filter(Boolean).flatMap(ids);
    },
  },
  events: {
    BookingMade: (view, data, { streamId }) => take(view, streamId, stayOf(data)),
    BookingMoved(view, data, { streamId }) {
      const stay = stayOf(data);
      giveBack(view, streamId);
      take(view, streamId, stay);
    },
    BookingCancelled: (view, data, { streamId }) => giveBack(view, streamId),
  },
});

/** What a booking takes; also its document. */
function stayOf(data) {
  const room = text(data, 'room');
  if (!Array.isArray(data.nights)) throw skip('invalid-data', '`nights` is no list');
  return { room, nights: data.nights.map((_, number) => text(data.nights, number)) };
}

const ids = ({ room, nights }) => nights.map((day) => `${room}/${day}`);

function take(view, booking, stay) {
  if (view.get('bookings', booking) !== null) throw skip('already-made', 'it can be moved or cancelled');
  for (const day of stay.nights) {
    const id = `${stay.room}/${day}`;
    const taken = view.get('room_occupancy', id);
    if (taken !== null) throw skip('occupied', `${id} is taken by ${taken.booking}`);
    view.put('room_occupancy', id, { room: stay.room, day, booking });
  }
  view.put('bookings', booking, stay);
}

function giveBack(view, booking) {
  const stay = view.get('bookings', booking);
  if (stay === null) throw skip('unknown-booking', 'it was never made, or is cancelled');
  for (const id of ids(stay)) view.remove('room_occupancy', id);
  view.remove('bookings', booking);
}
