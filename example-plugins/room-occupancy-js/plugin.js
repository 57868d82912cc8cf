// The occupancy of rooms: the plugin `room-occupancy` in JavaScript. Its documents equal those of
// the one in Rust.
//
// A stream is a booking. The collection `room_occupancy` has a document per occupied room and day,
// with the id `ROOM/DAY`: `room`, `day`, and `booking`, which is the stream's id. The collection
// `bookings` has a document per booking, `room` and `nights`, so that a later event can free them.
// A booking of an occupied night becomes a dead letter with the code `occupied`, and occupies no
// night.

import { skip, text, view } from 'sandmill';

export const { description, projector } = view({
  id: 'room-occupancy',
  version: '0.1.0',
  reads: {
    bookings: (data, event) => [event.streamId],
    // The nights that the booking may free, and those that the event occupies.
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

/** The room and nights of a booking. Also its document. */
function stayOf(data) {
  const room = text(data, 'room');
  if (!Array.isArray(data.nights)) throw skip('invalid-data', '`nights` is not a list');
  return { room, nights: data.nights.map((_, number) => text(data.nights, number)) };
}

const ids = ({ room, nights }) => nights.map((day) => `${room}/${day}`);

function take(view, booking, stay) {
  if (view.get('bookings', booking) !== null) throw skip('already-made', 'this booking was made before; move it or cancel it');
  for (const day of stay.nights) {
    const id = `${stay.room}/${day}`;
    const taken = view.get('room_occupancy', id);
    if (taken !== null) throw skip('occupied', `${id} is occupied by the booking ${taken.booking}`);
    view.put('room_occupancy', id, { room: stay.room, day, booking });
  }
  view.put('bookings', booking, stay);
}

function giveBack(view, booking) {
  const stay = view.get('bookings', booking);
  if (stay === null) throw skip('unknown-booking', 'this booking was never made, or was cancelled');
  for (const id of ids(stay)) view.remove('room_occupancy', id);
  view.remove('bookings', booking);
}
