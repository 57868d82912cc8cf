//! Loyalty points: customers earn one point for each full 10 of an order's total.
//!
//! `ShoppingCartConfirmed {"customerId", "total"}` appends `PointsEarned {"points"}` to the stream
//! `points-CUSTOMER`. An order of less than 10 earns no points, and its event says so.
//!
//! The host appends each event once, no matter how often the plugin is called again: the event's id
//! follows from its cause. So the plugin keeps no list of the orders that it has seen.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// The events, by their types, with the fields that matter here.
#[derive(Deserialize)]
#[serde(rename_all_fields = "camelCase")]
enum CartEvent {
    ShoppingCartConfirmed { customer_id: String, total: u64 },
}

#[derive(Serialize)]
struct PointsEarned {
    points: u64,
}

struct LoyaltyPoints;

impl Reactor for LoyaltyPoints {
    type Event<'e> = CartEvent;

    fn descriptor() -> Descriptor {
        descriptor!("loyalty-points")
    }

    fn react(event: CartEvent, _: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
        let CartEvent::ShoppingCartConfirmed { customer_id, total } = event;
        if customer_id.is_empty() {
            return Err(Failure::skip("no-customer", "the order has no customer, who could earn points"));
        }
        effects.append(format!("points-{customer_id}")).event("PointsEarned", &PointsEarned { points: total / 10 })?;
        Ok(())
    }
}

export_reactor!(LoyaltyPoints);

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{NewEvent, event, json, reactor};

    use super::*;

    fn confirmed(customer: &str, total: u64) -> NewEvent {
        event("ShoppingCartConfirmed", json!({"customerId": customer, "total": total}))
    }

    #[test]
    fn each_full_ten_earns_a_point() {
        reactor::<LoyaltyPoints>()
            .given([confirmed("ann", 129), confirmed("bob", 9), confirmed("ann", 10)])
            .then_appended(
                "points-ann",
                [("PointsEarned", json!({"points": 12})), ("PointsEarned", json!({"points": 1}))],
            )
            .then_appended("points-bob", [("PointsEarned", json!({"points": 0}))])
            .then_nothing_else();
    }

    #[test]
    fn an_order_without_a_customer_is_skipped() {
        reactor::<LoyaltyPoints>()
            .given([
                confirmed("", 50),
                event("ShoppingCartConfirmed", json!({"customerId": "ann", "total": "much"})),
                confirmed("ann", 50),
            ])
            .then_appended("points-ann", [("PointsEarned", json!({"points": 5}))])
            .then_skipped([(0, "no-customer"), (1, "invalid-data")])
            .then_nothing_else();
    }
}
