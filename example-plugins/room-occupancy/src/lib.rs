//! The occupancy of rooms: an event changes one document per night of a booking.
//!
//! A stream is a booking.
//!
//! - `room_occupancy` has a document per occupied room and day, with the id `ROOM/DAY`: `room`,
//!   `day`, and `booking`, which is the stream's id.
//! - `bookings` has a document per booking, `room` and `nights`, so that a later event can free
//!   them.
//!
//! A booking of an occupied night becomes a dead letter with the code `occupied`, and occupies no
//! night.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

const BOOKINGS: &str = "bookings";
const OCCUPANCY: &str = "room_occupancy";

#[derive(Deserialize)]
enum Booking {
    #[serde(rename = "BookingMade")]
    Made(Stay),
    #[serde(rename = "BookingMoved")]
    Moved(Stay),
    #[serde(rename = "BookingCancelled")]
    Cancelled,
}

/// The room and nights of a booking. Also its document.
#[derive(Default, Serialize, Deserialize)]
struct Stay {
    room: String,
    nights: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Taken {
    room: String,
    day: String,
    booking: String,
}

struct RoomOccupancy;

impl Projector for RoomOccupancy {
    fn describe() -> Descriptor {
        descriptor!("room-occupancy").event_types_of::<Booking>().collection(BOOKINGS).collection(OCCUPANCY)
    }

    fn project(batch: &Batch) -> Result<Projection, Halt> {
        Ok(view(batch)
            .reads(BOOKINGS, |_, recorded, _| Ok([recorded.stream_id()]))
            // The nights that the booking may free, and those that the event occupies.
            .reads(OCCUPANCY, |event, recorded, view| {
                let mut ids = view.get::<Stay>(BOOKINGS, recorded.stream_id())?.unwrap_or_default().ids();
                if let Booking::Made(stay) | Booking::Moved(stay) = event {
                    ids.extend(stay.ids());
                }
                Ok(ids)
            })
            .handle(handle))
    }
}

export_projector!(RoomOccupancy);

fn handle(view: &mut View, event: Booking, recorded: Event<'_>) -> Result<(), Failure> {
    let booking = recorded.stream_id();
    match event {
        Booking::Made(stay) => take(view, booking, &stay),
        Booking::Moved(stay) => give_back(view, booking).and_then(|()| take(view, booking, &stay)),
        Booking::Cancelled => give_back(view, booking),
    }
}

fn take(view: &mut View, booking: &str, stay: &Stay) -> Result<(), Failure> {
    if view.get::<Stay>(BOOKINGS, booking)?.is_some() {
        return Err(Failure::skip("already-made", "this booking was made before; move it or cancel it"));
    }
    for (id, day) in stay.ids().into_iter().zip(&stay.nights) {
        if let Some(Taken { booking, .. }) = view.get(OCCUPANCY, &id)? {
            return Err(Failure::skip("occupied", format!("{id} is occupied by the booking {booking}")));
        }
        view.put(OCCUPANCY, id, &Taken { room: stay.room.clone(), day: day.clone(), booking: booking.into() })?;
    }
    Ok(view.put(BOOKINGS, booking, stay)?)
}

fn give_back(view: &mut View, booking: &str) -> Result<(), Failure> {
    let stay: Option<Stay> = view.get(BOOKINGS, booking)?;
    let stay = stay.ok_or_else(|| Failure::skip("unknown-booking", "this booking was never made, or was cancelled"))?;
    stay.ids().into_iter().for_each(|id| view.remove(OCCUPANCY, id));
    view.remove(BOOKINGS, booking);
    Ok(())
}

impl Stay {
    fn ids(&self) -> Vec<String> {
        self.nights.iter().map(|day| format!("{}/{day}", self.room)).collect()
    }
}

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{NewEvent, event, given, json};

    use super::*;

    fn booking(event_type: &str, stream: &str, room: &str, nights: &[&str]) -> NewEvent {
        event(event_type, json!({"room": room, "nights": nights, "guest": "Ann"})).stream(stream)
    }

    fn cancelled(stream: &str) -> NewEvent {
        event("BookingCancelled", "{}").stream(stream)
    }

    /// The document of an occupied night.
    fn taken(room: &str, day: &str, booking: &str) -> (String, String) {
        (format!("{room}/{day}"), json!({"room": room, "day": day, "booking": booking}).to_string())
    }

    #[test]
    fn a_booking_occupies_each_of_its_nights_and_a_cancelled_one_none() {
        given::<RoomOccupancy>([
            booking("BookingMade", "ann", "12", &["05-01", "05-02"]),
            booking("BookingMade", "bob", "14", &["05-02"]),
            cancelled("bob"),
        ])
        .then("room_occupancy", [taken("12", "05-01", "ann"), taken("12", "05-02", "ann")])
        .then("bookings", [("ann", json!({"room": "12", "nights": ["05-01", "05-02"]}))]);
    }

    #[test]
    fn a_moved_booking_frees_its_former_nights() {
        given::<RoomOccupancy>([
            booking("BookingMade", "ann", "12", &["05-01", "05-02"]),
            booking("BookingMoved", "ann", "12", &["05-02", "05-03"]),
            booking("BookingMade", "bob", "12", &["05-01"]),
            booking("BookingMoved", "bob", "14", &["05-03"]),
        ])
        .then(
            "room_occupancy",
            [taken("12", "05-02", "ann"), taken("12", "05-03", "ann"), taken("14", "05-03", "bob")],
        );
    }

    #[test]
    fn an_occupied_night_skips_the_whole_event() {
        given::<RoomOccupancy>([
            booking("BookingMade", "ann", "12", &["05-02"]),
            booking("BookingMade", "bob", "12", &["05-01", "05-02", "05-03"]),
            booking("BookingMade", "bob", "14", &["05-01"]),
            booking("BookingMoved", "bob", "12", &["05-03", "05-02"]),
        ])
        .then("room_occupancy", [taken("12", "05-02", "ann"), taken("14", "05-01", "bob")])
        .then_skipped([(1, "occupied"), (3, "occupied")]);
    }

    #[test]
    fn events_that_do_not_fit_the_booking_are_skipped() {
        given::<RoomOccupancy>([
            cancelled("ann"),
            booking("BookingMoved", "ann", "12", &["05-01"]),
            booking("BookingMade", "ann", "12", &["05-01"]),
            booking("BookingMade", "ann", "14", &["05-01"]),
            event("BookingMade", json!({"room": "12", "nights": "05-02"})).stream("bob"),
            event("BookingConfirmed", "{}").stream("ann"),
        ])
        .then("room_occupancy", [taken("12", "05-01", "ann")])
        .then_skipped([
            (0, "unknown-booking"),
            (1, "unknown-booking"),
            (3, "already-made"),
            (4, "invalid-data"),
        ]);
    }
}
