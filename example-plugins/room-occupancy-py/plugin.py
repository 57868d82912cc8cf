"""Which rooms are taken on which days: the plugin `room-occupancy` in Python, with the same documents as the one in Rust.

A stream is a booking. The collection `room_occupancy` has a document for each room and day that is taken, under the id `ROOM/DAY`: `room`, `day`
and `booking`, the stream's id. The collection `bookings` has one for each booking, `room` and `nights`, by which a later event knows what
to give back. A booking for a night that is taken is set aside as a dead letter with the code `occupied`, and takes no other night either.
"""

from sandmill import Skip, View, text

rooms = View("room-occupancy", version="0.1.0")


@rooms.reads("bookings")
def booking_of(data, event):
    return [event.stream_id]


@rooms.reads("room_occupancy")
def nights_of(data, event, view):
    # What the booking may give back, and what the event takes.
    stays = [view.get("bookings", event.stream_id), event.event_type != "BookingCancelled" and stay_of(data)]
    return [id for stay in stays if stay for id in ids(stay)]


@rooms.on("BookingMade")
def made(view, data, event):
    take(view, event.stream_id, stay_of(data))


@rooms.on("BookingMoved")
def moved(view, data, event):
    stay = stay_of(data)
    give_back(view, event.stream_id)
    take(view, event.stream_id, stay)


@rooms.on("BookingCancelled")
def cancelled(view, data, event):
    give_back(view, event.stream_id)


def stay_of(data):
    """What a booking takes; also its document."""
    room, nights = text(data, "room"), data.get("nights")
    if not isinstance(nights, list):
        raise Skip("invalid-data", "`nights` is no list")
    return {"room": room, "nights": [text({"nights": day}, "nights") for day in nights]}


def ids(stay):
    return [f"{stay['room']}/{day}" for day in stay["nights"]]


def take(view, booking, stay):
    if view.get("bookings", booking) is not None:
        raise Skip("already-made", "it can be moved or cancelled")
    for id, day in zip(ids(stay), stay["nights"]):
        taken = view.get("room_occupancy", id)
        if taken is not None:
            raise Skip("occupied", f"{id} is taken by {taken['booking']}")
        view.put("room_occupancy", id, {"room": stay["room"], "day": day, "booking": booking})
    view.put("bookings", booking, stay)


def give_back(view, booking):
    stay = view.get("bookings", booking)
    if stay is None:
        raise Skip("unknown-booking", "it was never made, or is cancelled")
    for id in ids(stay):
        view.remove("room_occupancy", id)
    view.remove("bookings", booking)


Description, Projector = rooms.exports()
