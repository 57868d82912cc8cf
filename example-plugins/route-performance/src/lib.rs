//! How punctual each route of a carrier is.
//!
//! Carriers are tenants, so a carrier's routes are its own. The collection `route_performance` has one document for each route,
//! with the id `ORIGIN-DESTINATION` and exactly these sums: `flown`, `cancelled`, `departureDelay`, `arrivalDelay` (both in
//! minutes, early ones negative; a flight that was diverted has no arrival delay and counts 0) and `distance` in miles.
//! Cancelled flights add no distance.

use std::borrow::Cow;

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

const COLLECTION: &str = "route_performance";

/// What a `FlightFlown` says, as far as it matters here. `Cow` borrows a name from the event and yet allows for one that is
/// written with JSON escapes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flown<'e> {
    #[serde(borrow)]
    origin: Cow<'e, str>,
    #[serde(borrow)]
    destination: Cow<'e, str>,
    distance: u64,
    departure_delay: i64,
    arrival_delay: Option<i64>,
}

/// What a `FlightCancelled` says.
#[derive(Deserialize)]
struct Cancelled<'e> {
    #[serde(borrow)]
    origin: Cow<'e, str>,
    #[serde(borrow)]
    destination: Cow<'e, str>,
}

/// What remains of an event once its route is known.
enum Flight {
    Flown { distance: u64, departure_delay: i64, arrival_delay: i64 },
    Cancelled,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Performance {
    flown: u64,
    cancelled: u64,
    departure_delay: i64,
    arrival_delay: i64,
    distance: u64,
}

struct RoutePerformance;

impl Projector for RoutePerformance {
    fn describe() -> Descriptor {
        descriptor!("route-performance").event_types(["FlightFlown", "FlightCancelled"]).collection(COLLECTION)
    }

    fn project(batch: &Batch) -> Result<Projection, Halt> {
        Ok(fold(batch, COLLECTION, locate, apply))
    }
}

export_projector!(RoutePerformance);

fn locate(event: Event<'_>) -> Result<(String, Flight), Failure> {
    if event.event_type() == "FlightCancelled" {
        let Cancelled { origin, destination } = event.data()?;
        return Ok((route(&origin, &destination), Flight::Cancelled));
    }
    let Flown { origin, destination, distance, departure_delay, arrival_delay } = event.data()?;
    let arrival_delay = arrival_delay.unwrap_or(0);
    Ok((route(&origin, &destination), Flight::Flown { distance, departure_delay, arrival_delay }))
}

fn route(origin: &str, destination: &str) -> String {
    [origin, "-", destination].concat()
}

fn apply(route: &mut Performance, _event: Event<'_>, flight: Flight) -> Result<(), Failure> {
    match flight {
        Flight::Flown { distance, departure_delay, arrival_delay } => {
            route.flown += 1;
            route.departure_delay += departure_delay;
            route.arrival_delay += arrival_delay;
            route.distance += distance;
        }
        Flight::Cancelled => route.cancelled += 1,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{Lane, event};

    use super::*;

    #[test]
    fn flights_add_up_by_route() {
        let mut lane = Lane::<RoutePerformance>::new("UA");
        let flown = |rest: &str| {
            event(
                "FlightFlown",
                format!(r#"{{"origin":"EWR","destination":"IAH","distance":1400,{rest},"airTime":227}}"#),
            )
        };
        let answer = lane.handle([
            flown(r#""departureDelay":-2,"arrivalDelay":11"#),
            flown(r#""departureDelay":7,"arrivalDelay":null"#),
            event("FlightCancelled", r#"{"flight":1,"origin":"EWR","destination":"IAH","distance":1400}"#),
            event("FlightCancelled", r#"{"origin":"LGA","destination":"IAH"}"#),
            event("FlightFlown", r#"{"origin":"LGA"}"#),
        ]);
        assert_eq!(
            lane.texts(COLLECTION),
            [
                ("EWR-IAH", r#"{"flown":2,"cancelled":1,"departureDelay":5,"arrivalDelay":11,"distance":2800}"#),
                ("LGA-IAH", r#"{"flown":0,"cancelled":1,"departureDelay":0,"arrivalDelay":0,"distance":0}"#),
            ]
        );
        assert_eq!(answer.skipped.len(), 1, "an event without destination is set aside");
    }
}
