//! The way of an order: from its payment, which has a time limit, to its shipment.
//!
//! Each order is a workflow with a document in `checkouts`: its `status`. All events have an
//! `orderId`, by which they find their workflow, no matter which stream they are in. Each order has
//! a lane of its own, so a problem with one order stops no other.
//!
//! - `OrderPlaced {"orderId", "amount"}`: sends `RequestPayment {"orderId", "amount"}` to the sink
//!   `payments`, and sets a timer of 15 minutes.
//! - `PaymentReceived {"orderId"}`: cancels the timer, and sends `RequestShipment {"orderId"}` to
//!   the sink `warehouse`.
//! - `PaymentFailed {"orderId"}`: cancels the timer, and appends `OrderCancelled {"orderId",
//!   "reason"}`.
//! - `PaymentTimedOut {"orderId"}`, the event of the timer: appends the same with another reason.
//! - `ShipmentSent {"orderId"}`: appends `OrderCompleted {"orderId"}`.
//!
//! It appends to the stream `order-ORDERID`. Payment and time limit may cross: a payment for a
//! cancelled order leads to the message `RefundPayment {"orderId"}` to the sink `payments`, and a
//! time limit that is over after the payment leads to nothing. A second `OrderPlaced` of an order
//! becomes a dead letter with the code `already-placed`; a shipment of an unpaid order one with the
//! code `not-paid`.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// The time that a customer has to pay, milliseconds.
const TIME_TO_PAY: i64 = 15 * 60 * 1000;
/// The name of the timer.
const PAYMENT: &str = "payment";

const PAYMENTS: &str = "payments";
const WAREHOUSE: &str = "warehouse";

/// The events, by their types, with the fields that matter here.
#[derive(Deserialize)]
#[serde(rename_all_fields = "camelCase")]
enum OrderEvent {
    OrderPlaced { order_id: String, amount: u64 },
    PaymentReceived { order_id: String },
    PaymentFailed { order_id: String },
    PaymentTimedOut { order_id: String },
    ShipmentSent { order_id: String },
}

#[derive(Default, Serialize, Deserialize)]
struct Checkout {
    status: Status,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// No order yet: the state before the first event.
    #[default]
    New,
    AwaitingPayment,
    AwaitingShipment,
    Completed,
    Cancelled,
}

/// The content of what the workflow appends and sends.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'o> {
    order_id: &'o str,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'o str>,
}

impl Workflow for Checkout {
    const COLLECTION: &str = "checkouts";
    type Event<'e> = OrderEvent;

    fn descriptor() -> Descriptor {
        descriptor!("checkout-workflow").partition_by_property("/orderId")
    }

    fn id<'e>(event: &OrderEvent, _: Event<'e>) -> Option<Cow<'e, str>> {
        Some(event.order_id().to_owned().into())
    }

    fn decide(
        &self,
        event: &OrderEvent,
        recorded: Event<'_>,
        decisions: &mut Decisions<'_, '_>,
    ) -> Result<(), Failure> {
        let order_id = event.order_id();
        let stream = format!("order-{order_id}");
        let content = Content { order_id, amount: None, reason: None };
        match (event, self.status) {
            (OrderEvent::OrderPlaced { amount, .. }, Status::New) => {
                decisions.send(PAYMENTS, "RequestPayment", &Content { amount: Some(*amount), ..content })?;
                // The event of the timer has the order's id, which leads it to this lane and this
                // workflow.
                let due_at = recorded.recorded_at() + TIME_TO_PAY;
                decisions.schedule(PAYMENT, due_at, stream, "PaymentTimedOut", &content)?;
            }
            (OrderEvent::OrderPlaced { .. }, _) => {
                return Err(Failure::skip("already-placed", format!("the order {order_id} was placed before")));
            }
            (OrderEvent::PaymentReceived { .. }, Status::AwaitingPayment) => {
                decisions.cancel(PAYMENT);
                decisions.send(WAREHOUSE, "RequestShipment", &content)?;
            }
            (OrderEvent::PaymentReceived { .. }, Status::Cancelled) => {
                decisions.send(PAYMENTS, "RefundPayment", &content)?;
            }
            (OrderEvent::PaymentFailed { .. }, Status::AwaitingPayment) => {
                decisions.cancel(PAYMENT);
                let cancelled = Content { reason: Some("payment-failed"), ..content };
                decisions.append(stream).event("OrderCancelled", &cancelled)?;
            }
            (OrderEvent::PaymentTimedOut { .. }, Status::AwaitingPayment) => {
                let cancelled = Content { reason: Some("payment-timed-out"), ..content };
                decisions.append(stream).event("OrderCancelled", &cancelled)?;
            }
            (OrderEvent::ShipmentSent { .. }, Status::AwaitingShipment) => {
                decisions.append(stream).event("OrderCompleted", &content)?;
            }
            (OrderEvent::ShipmentSent { .. }, _) => {
                return Err(Failure::skip("not-paid", format!("the order {order_id} is not paid")));
            }
            _ => {}
        }
        Ok(())
    }

    fn evolve(&mut self, event: OrderEvent, _: Event<'_>) {
        self.status = match (event, self.status) {
            (OrderEvent::OrderPlaced { .. }, _) => Status::AwaitingPayment,
            (OrderEvent::PaymentReceived { .. }, Status::AwaitingPayment) => Status::AwaitingShipment,
            (OrderEvent::PaymentFailed { .. } | OrderEvent::PaymentTimedOut { .. }, Status::AwaitingPayment) => {
                Status::Cancelled
            }
            (OrderEvent::ShipmentSent { .. }, _) => Status::Completed,
            (_, status) => status,
        };
    }

    /// An event of an unknown order leaves no document.
    fn is_over(&self) -> bool {
        self.status == Status::New
    }
}

impl OrderEvent {
    fn order_id(&self) -> &str {
        match self {
            OrderEvent::OrderPlaced { order_id, .. }
            | OrderEvent::PaymentReceived { order_id }
            | OrderEvent::PaymentFailed { order_id }
            | OrderEvent::PaymentTimedOut { order_id }
            | OrderEvent::ShipmentSent { order_id } => order_id,
        }
    }
}

export_reactor!(Checkout);

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{NewEvent, ReactorTest, event, json, reactor};

    use super::*;

    fn placed(order: &str) -> NewEvent {
        event("OrderPlaced", json!({"orderId": order, "amount": 4200})).stream(format!("order-{order}"))
    }

    fn of(event_type: &str, order: &str) -> NewEvent {
        event(event_type, json!({"orderId": order})).stream(format!("payment-{order}"))
    }

    /// The test of these events, after it has asserted that the payment of the order 7 was
    /// requested.
    fn requested(events: impl IntoIterator<Item = NewEvent>) -> ReactorTest<Checkout> {
        reactor::<Checkout>().given(events).then_sent(
            "payments",
            "RequestPayment",
            json!({"orderId": "7", "amount": 4200}),
        )
    }

    #[test]
    fn a_placed_order_requests_its_payment_within_15_minutes() {
        requested([placed("7").recorded_at(1_000)])
            .then_scheduled("7/payment", 901_000, "order-7", "PaymentTimedOut", json!({"orderId": "7"}))
            .then("checkouts", [("7", json!({"status": "awaiting-payment"}))])
            .then_nothing_else();
    }

    #[test]
    fn a_paid_order_is_shipped_and_completed() {
        requested([placed("7"), of("PaymentReceived", "7"), of("PaymentTimedOut", "7"), of("ShipmentSent", "7")])
            .then_cancelled("7/payment")
            .then_sent("warehouse", "RequestShipment", json!({"orderId": "7"}))
            .then_appended("order-7", [("OrderCompleted", json!({"orderId": "7"}))])
            .then("checkouts", [("7", json!({"status": "completed"}))])
            .then_nothing_else();
    }

    #[test]
    fn an_order_whose_payment_fails_is_cancelled() {
        requested([placed("7"), of("PaymentFailed", "7")])
            .then_cancelled("7/payment")
            .then_appended("order-7", [("OrderCancelled", json!({"orderId": "7", "reason": "payment-failed"}))])
            .then_nothing_else();
    }

    #[test]
    fn an_order_that_is_not_paid_in_time_is_cancelled_and_a_late_payment_is_refunded() {
        requested([placed("7"), of("PaymentTimedOut", "7"), of("PaymentReceived", "7")])
            .then_scheduled("7/payment", 900_000, "order-7", "PaymentTimedOut", json!({"orderId": "7"}))
            .then_appended("order-7", [("OrderCancelled", json!({"orderId": "7", "reason": "payment-timed-out"}))])
            .then_sent("payments", "RefundPayment", json!({"orderId": "7"}))
            .then("checkouts", [("7", json!({"status": "cancelled"}))])
            .then_nothing_else();
    }

    #[test]
    fn events_that_do_not_fit_the_order_are_skipped_or_ignored() {
        requested([
            placed("7"),
            placed("7"),
            of("ShipmentSent", "7"),
            of("ShipmentSent", "8"),
            of("PaymentFailed", "8"),
        ])
        .then_scheduled("7/payment", 900_000, "order-7", "PaymentTimedOut", json!({"orderId": "7"}))
        .then_skipped([(1, "already-placed"), (2, "not-paid"), (3, "not-paid")])
        .then("checkouts", [("7", json!({"status": "awaiting-payment"}))])
        .then_nothing_else();
    }

    #[test]
    fn orders_do_not_affect_each_other() {
        reactor::<Checkout>()
            .given([placed("7"), placed("8"), of("PaymentReceived", "8")])
            .then_cancelled("8/payment")
            .then_scheduled("7/payment", 900_000, "order-7", "PaymentTimedOut", json!({"orderId": "7"}))
            .then_sent("warehouse", "RequestShipment", json!({"orderId": "8"}))
            .then(
                "checkouts",
                [("7", json!({"status": "awaiting-payment"})), ("8", json!({"status": "awaiting-shipment"}))],
            );
    }
}
