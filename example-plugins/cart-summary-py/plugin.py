"""What is in each cart, and how it ended: the plugin `cart-summary` in Python, with the same documents as the one in Rust.

A stream is a cart. The collection `cart_summary` has one document for each, under the stream's id: `items`, the number of items in it,
`total`, their price in cents, and `status`, which is `open`, `checked-out` or `abandoned`.
"""

from sandmill import Documents, natural

carts = Documents(
    "cart-summary", version="0.1.0", collection="cart_summary", initial={"items": 0, "total": 0, "status": "open"}
)


@carts.on("ItemAdded")
def added(cart, data):
    quantity, price = natural(data, "quantity"), natural(data, "price")
    return {**cart, "items": cart["items"] + quantity, "total": cart["total"] + quantity * price}


@carts.on("ItemRemoved")
def removed(cart, data):
    # A cart never holds less than nothing, whatever is taken out of it.
    quantity, price = natural(data, "quantity"), natural(data, "price")
    return {**cart, "items": max(0, cart["items"] - quantity), "total": max(0, cart["total"] - quantity * price)}


@carts.on("CartCheckedOut")
def checked_out(cart, data):
    return {**cart, "status": "checked-out"}


@carts.on("CartAbandoned")
def abandoned(cart, data):
    return {**cart, "status": "abandoned"}


Description, Projector = carts.exports()
