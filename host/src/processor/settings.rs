//! The settings of individual processors: `[processors.ID]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    policy::FailureSettings,
    pressure::{PressureSettings, Strategy},
};
use crate::model::ids::ProcessorId;

/// The settings of one processor, found by its exact id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProcessorSettings {
    /// What happens when a lane cannot keep up: `detach`, `pause`, `lockstep` or `shed`. Default
    /// `detach`: a slow lane delays only itself.
    pub back_pressure: Strategy,
    /// Number of events behind the head of the log above which a lane or the processor jumps to the
    /// head; only with `shed`. Default 0, which means no bound: shedding loses events, so it must
    /// be chosen explicitly. Events of all types count; for a lane, only those of its tenant.
    pub shed_after_events: usize,
    /// What happens to events that cannot be handled, by class of failure. Each value takes
    /// precedence over those of the plugin's manifest.
    #[serde(skip_serializing_if = "FailureSettings::is_empty")]
    pub failures: FailureSettings,
}

impl ProcessorSettings {
    /// Settings with a value for every optional key, from which all keys are derived.
    pub fn every() -> Self {
        ProcessorSettings { failures: FailureSettings::every(), ..ProcessorSettings::default() }
    }

    /// The settings for lanes that cannot keep up.
    pub fn pressure(&self) -> PressureSettings {
        PressureSettings { back_pressure: self.back_pressure, shed_after_events: self.shed_after_events }
    }
}

/// Checks the settings of processors by name. An error includes the remedy.
pub fn check(processors: &BTreeMap<String, ProcessorSettings>) -> Result<(), String> {
    for (name, settings) in processors {
        ProcessorId::parse(name).map_err(|problem| format!("processors.{name}: {problem}"))?;
        match (settings.back_pressure, settings.shed_after_events) {
            (Strategy::Shed, 0) => {
                return Err(format!(
                    "processors.{name}.back-pressure = shed loses events, so it requires a bound; set processors.{name}.shed-after-events, for instance to 100000"
                ));
            }
            (Strategy::Shed, _) if settings.failures.parks() => {
                return Err(format!(
                    "processors.{name}: then = \"park-stream\" and back-pressure = shed exclude each other, because shedding would drop events that wait; use \"dead-letter\" or \"stop\", or another back-pressure"
                ));
            }
            (Strategy::Shed, _) | (_, 0) => {}
            (_, events) => {
                return Err(format!(
                    "processors.{name}.shed-after-events = {events} has no effect without processors.{name}.back-pressure = shed; set both or none"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shed_bound_requires_shedding_and_shedding_requires_a_bound() {
        let settings = |back_pressure, shed_after_events| ProcessorSettings {
            back_pressure,
            shed_after_events,
            ..ProcessorSettings::default()
        };
        let check = |name: &str, settings| check(&BTreeMap::from([(name.to_string(), settings)]));
        assert_eq!(check("p", settings(Strategy::Pause, 0)), Ok(()));
        assert_eq!(check("p", settings(Strategy::Shed, 5)), Ok(()));
        assert!(check("p", settings(Strategy::Shed, 0)).unwrap_err().contains("set processors.p.shed-after-events"));
        assert!(check("p", settings(Strategy::Pause, 5)).unwrap_err().contains("has no effect without"));
        let parks = FailureSettings::deserialize(serde_json::json!({ "then": "park-stream" })).unwrap();
        let parking = |pressure, bound| ProcessorSettings { failures: parks.clone(), ..settings(pressure, bound) };
        assert!(check("p", parking(Strategy::Shed, 5)).unwrap_err().contains("exclude each other"));
        assert_eq!(check("p", parking(Strategy::Pause, 0)), Ok(()));
        assert!(check("No Name", ProcessorSettings::default()).unwrap_err().starts_with("processors.No Name: "));
    }
}
