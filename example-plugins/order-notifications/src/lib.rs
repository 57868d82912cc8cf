//! A notification for each confirmed order.
//!
//! `ShoppingCartConfirmed {"customerId", "total"}` leads to one message for the sink
//! `notifications`: its type is `OrderConfirmed`, and its body is `{"cart", "customerId",
//! "total"}`. `cart` is the stream's id. The message has the header `customer`, so that a receiver
//! can route it without reading the body.
//!
//! The host delivers the message to the sink that its configuration names: see
//! `sandmill.example.toml` beside this crate.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// The events, by their types, with the fields that matter here.
#[derive(Deserialize)]
#[serde(rename_all_fields = "camelCase")]
enum CartEvent {
    ShoppingCartConfirmed { customer_id: String, total: u64 },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderConfirmed<'e> {
    cart: &'e str,
    customer_id: &'e str,
    total: u64,
}

struct OrderNotifications;

impl Reactor for OrderNotifications {
    type Event<'e> = CartEvent;

    fn descriptor() -> Descriptor {
        descriptor!("order-notifications")
    }

    fn react(event: CartEvent, recorded: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
        let CartEvent::ShoppingCartConfirmed { customer_id, total } = event;
        let body = OrderConfirmed { cart: recorded.stream_id(), customer_id: &customer_id, total };
        effects.send("notifications", "OrderConfirmed", &body)?.header("customer", &customer_id);
        Ok(())
    }
}

export_reactor!(OrderNotifications);

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{NewEvent, event, json, reactor};

    use super::*;

    fn confirmed(customer: &str, total: u64) -> NewEvent {
        event("ShoppingCartConfirmed", json!({"customerId": customer, "total": total, "items": 3}))
    }

    #[test]
    fn each_confirmed_order_sends_one_message() {
        reactor::<OrderNotifications>()
            .given([confirmed("ann", 120).stream("cart-1"), confirmed("bob", 45).stream("cart-2")])
            .then_sent("notifications", "OrderConfirmed", json!({"cart": "cart-1", "customerId": "ann", "total": 120}))
            .then_headers([("customer", "ann")])
            .then_sent("notifications", "OrderConfirmed", json!({"cart": "cart-2", "customerId": "bob", "total": 45}))
            .then_headers([("customer", "bob")])
            .then_nothing_else();
    }

    #[test]
    fn an_order_without_a_customer_is_skipped_and_other_events_are_ignored() {
        reactor::<OrderNotifications>()
            .given([event("ShoppingCartConfirmed", json!({"total": 120})), event("ShoppingCartOpened", "{}")])
            .then_skipped([(0, "invalid-data")])
            .then_nothing_else();
    }
}
