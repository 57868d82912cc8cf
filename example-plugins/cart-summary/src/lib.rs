//! A summary of each shopping cart: its items, their total price, and its status.
//!
//! A stream is a cart. The collection `cart_summary` has one document per cart, with the stream's
//! id:
//!
//! - `items`: number of items
//! - `total`: their price, cents
//! - `status`: `open`, `checked-out` or `abandoned`
//!
//! An item is removed at the price in the event, so the document needs no price per product.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// The events, by their types, with the fields that matter here.
#[derive(Deserialize)]
enum CartEvent {
    ItemAdded { quantity: u64, price: u64 },
    ItemRemoved { quantity: u64, price: u64 },
    CartCheckedOut,
    CartAbandoned,
}

#[derive(Default, Serialize, Deserialize)]
struct Cart {
    items: u64,
    total: u64,
    status: Status,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    #[default]
    Open,
    CheckedOut,
    Abandoned,
}

impl Document for Cart {
    const COLLECTION: &str = "cart_summary";
    type Event<'e> = CartEvent;

    fn descriptor() -> Descriptor {
        descriptor!("cart-summary")
    }

    fn id<'e>(_: &CartEvent, recorded: Event<'e>) -> Cow<'e, str> {
        recorded.stream_id().into()
    }

    fn evolve(&mut self, event: CartEvent, _: Event<'_>) {
        match event {
            CartEvent::ItemAdded { quantity, price } => {
                self.items += quantity;
                self.total += quantity * price;
            }
            // No underflow, even if more is removed than was added.
            CartEvent::ItemRemoved { quantity, price } => {
                self.items = self.items.saturating_sub(quantity);
                self.total = self.total.saturating_sub(quantity * price);
            }
            CartEvent::CartCheckedOut => self.status = Status::CheckedOut,
            CartEvent::CartAbandoned => self.status = Status::Abandoned,
        }
    }
}

export_projector!(Cart);

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{NewEvent, event, given, json};

    use super::*;

    fn added(sku: &str, quantity: u64, price: u64) -> NewEvent {
        event("ItemAdded", json!({"sku": sku, "quantity": quantity, "price": price, "note": "gift wrap"}))
    }

    fn removed(sku: &str, quantity: u64, price: u64) -> NewEvent {
        event("ItemRemoved", json!({"sku": sku, "quantity": quantity, "price": price}))
    }

    #[test]
    fn each_cart_sums_its_items() {
        given::<Cart>([
            added("mug", 2, 499).stream("cart-1"),
            added("cup", 1, 1250).stream("cart-2"),
            removed("mug", 1, 499).stream("cart-1"),
        ])
        .then(
            "cart_summary",
            [
                ("cart-1", json!({"items": 1, "total": 499, "status": "open"})),
                ("cart-2", json!({"items": 1, "total": 1250, "status": "open"})),
            ],
        );
    }

    #[test]
    fn a_cart_is_checked_out_or_abandoned() {
        given::<Cart>([
            added("mug", 1, 499).stream("cart-1"),
            event("CartCheckedOut", json!({"order": 7})).stream("cart-1"),
            event("CartAbandoned", "{}").stream("cart-2"),
        ])
        .then(
            "cart_summary",
            [
                ("cart-1", json!({"items": 1, "total": 499, "status": "checked-out"})),
                ("cart-2", json!({"items": 0, "total": 0, "status": "abandoned"})),
            ],
        );
    }

    #[test]
    fn removing_more_than_the_cart_has_leaves_zero() {
        given::<Cart>([added("mug", 1, 499), removed("mug", 3, 499)])
            .then("cart_summary", [("stream-1", json!({"items": 0, "total": 0, "status": "open"}))]);
    }

    #[test]
    fn an_item_without_a_price_is_skipped_and_unknown_events_are_ignored() {
        given::<Cart>([event("ItemAdded", json!({"sku": "mug", "quantity": 1})), event("CartRenamed", "{}")])
            .then_empty("cart_summary")
            .then_skipped([(0, "invalid-data")]);
    }
}
