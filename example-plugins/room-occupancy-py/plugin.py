"""The occupancy of rooms: the plugin `room-occupancy` in Python.

Its documents equal those of the one in Rust. A stream is a booking. The collection `room_occupancy`
has a document per occupied room and day, with the id `ROOM/DAY`: `room`, `day`, and `booking`, which
is the stream's id. The collection `bookings` has a document per booking, `room` and `nights`, so that
a later event can free them. A booking of an occupied night becomes a dead letter with the code
`occupied`, and occupies no night.
"""

from sandmill import Skip, View, text

rooms = View("room-occupancy", version="0.1.0")


@rooms.reads("bookings")
def booking_of(data, event):
    return [event.stream_id]


@rooms.reads("room_occupancy")
def nights_of(data, event, view):
    # The nights that the booking may free, and those that the event occupies.
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
    """The room and nights of a booking. Also its document."""
    room, nights = text(data, "room"), data.get("nights")
    if not isinstance(nights, list):
        raise Skip("invalid-data", "`nights` is not a list")
    return {"room": room, "nights": [text({"nights": day}, "nights") for day in nights]}


def ids(stay):
    return [f"{stay['room']}/{day}" for day in stay["nights"]]


def take(view, booking, stay):
    if view.get("bookings", booking) is not None:
        raise Skip("already-made", "this booking was made before; move it or cancel it")
    for id, day in zip(ids(stay), stay["nights"]):
        taken = view.get("room_occupancy", id)
        if taken is not None:
            raise Skip("occupied", f"{id} is occupied by the booking {taken['booking']}")
        view.put("room_occupancy", id, {"room": stay["room"], "day": day, "booking": booking})
    view.put("bookings", booking, stay)


def give_back(view, booking):
    stay = view.get("bookings", booking)
    if stay is None:
        raise Skip("unknown-booking", "this booking was never made, or was cancelled")
    for id in ids(stay):
        view.remove("room_occupancy", id)
    view.remove("bookings", booking)


Description, Projector = rooms.exports()
