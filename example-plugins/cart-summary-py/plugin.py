"""A summary of each shopping cart: the plugin `cart-summary` in Python.

Its documents equal those of the one in Rust. A stream is a cart. The collection `cart_summary` has
one document per cart, with the stream's id: `items` (number), `total` (price in cents) and `status`
(`open`, `checked-out` or `abandoned`).
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
    # No negative numbers, even if more is removed than was added.
    quantity, price = natural(data, "quantity"), natural(data, "price")
    return {**cart, "items": max(0, cart["items"] - quantity), "total": max(0, cart["total"] - quantity * price)}


@carts.on("CartCheckedOut")
def checked_out(cart, data):
    return {**cart, "status": "checked-out"}


@carts.on("CartAbandoned")
def abandoned(cart, data):
    return {**cart, "status": "abandoned"}


Description, Projector = carts.exports()
