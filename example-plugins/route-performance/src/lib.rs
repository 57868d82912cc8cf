//! The punctuality of each route of a carrier. A tenant is a carrier.
//!
//! The collection `route_performance` has one document per route, with the id `ORIGIN-DESTINATION`
//! and these sums:
//!
//! - `flown`, `cancelled`: numbers of flights
//! - `departureDelay`, `arrivalDelay`: minutes, negative if early. A diverted flight has no arrival
//!   delay and adds 0.
//! - `distance`: miles. Cancelled flights add none.

use std::borrow::Cow;

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

const COLLECTION: &str = "route_performance";

/// The data of a `FlightFlown`, with the fields that matter here. `Cow` borrows a name from the
/// event, unless it contains JSON escapes.
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

/// The data of a `FlightCancelled`.
#[derive(Deserialize)]
struct Cancelled<'e> {
    #[serde(borrow)]
    origin: Cow<'e, str>,
    #[serde(borrow)]
    destination: Cow<'e, str>,
}

/// An event without its route.
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
        assert_eq!(answer.skipped.len(), 1, "an event without destination is skipped");
    }
}
