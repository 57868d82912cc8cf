"""What is on each account: one document for each stream."""

from sandmill import Documents, natural

accounts = Documents(
    "{{name}}",
    version="0.1.0",
    collection="{{collection}}",
    # A document begins as this.
    initial={"balance": 0, "bookings": 0},
    # Which document does an event belong to?
    document_id=lambda data, event: event.stream_id,
)


# What does an event of each type do to its document? A new one is given back, the old one stays as it was.
@accounts.on("Deposited")
def deposited(account, data):
    return booked(account, natural(data, "cents"))


@accounts.on("Withdrawn")
def withdrawn(account, data):
    return booked(account, -natural(data, "cents"))


def booked(account, cents):
    return {"balance": account["balance"] + cents, "bookings": account["bookings"] + 1}


Description, Projector = accounts.exports()
