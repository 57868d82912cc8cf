"""The balance of each account: one document per stream."""

from sandmill import Documents, natural

accounts = Documents(
    "{{name}}",
    version="0.1.0",
    collection="{{collection}}",
    # The initial state of a document.
    initial={"balance": 0, "entries": 0},
    # The id of the document that an event changes.
    document_id=lambda data, event: event.stream_id,
)


# One function per event type. It returns a new document and must not change the old one.
@accounts.on("Deposited")
def deposited(account, data):
    return posted(account, natural(data, "cents"))


@accounts.on("Withdrawn")
def withdrawn(account, data):
    return posted(account, -natural(data, "cents"))


def posted(account, cents):
    return {"balance": account["balance"] + cents, "entries": account["entries"] + 1}


Description, Projector = accounts.exports()
