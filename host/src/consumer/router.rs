//! Which lanes a page concerns: pure.

use std::{collections::HashMap, sync::Arc};

use crate::model::{
    event::Event,
    handler::{Descriptor, PartitionBy},
    ids::{LaneKey, TenantId},
};

/// A lane's key is cut to this many bytes: as long as a stream's name may be, and short enough for every index. Values that begin alike and are
/// longer share a lane, which costs them nothing but each other's company.
const KEY_BYTES: usize = 512;

/// What a processor subscribes to, ready to be asked for each event.
#[derive(Clone)]
pub struct Router {
    /// None takes every type.
    event_types: Option<Arc<[Box<str>]>>,
    /// None takes everybody's.
    tenants: Option<Arc<[TenantId]>>,
    partition_by: PartitionBy,
}

impl Router {
    /// The subscription of a descriptor.
    pub fn new(descriptor: &Descriptor) -> Self {
        let mut event_types: Option<Vec<Box<str>>> =
            descriptor.event_types.as_ref().map(|types| types.iter().map(|t| t.as_str().into()).collect());
        if let Some(types) = &mut event_types {
            types.sort();
        }
        let mut tenants = descriptor.tenants.clone();
        if let Some(tenants) = &mut tenants {
            tenants.sort();
        }
        Router {
            event_types: event_types.map(Into::into),
            tenants: tenants.map(Into::into),
            partition_by: descriptor.partition_by.clone(),
        }
    }

    /// Whether the processor handles this event.
    pub fn takes(&self, event: &Event) -> bool {
        if self.tenants.as_ref().is_some_and(|tenants| tenants.binary_search(&event.tenant).is_err()) {
            return false;
        }
        match &self.event_types {
            None => true,
            Some(types) => types.binary_search_by(|t| (**t).cmp(&event.event_type)).is_ok(),
        }
    }

    /// The pointer to the property that lanes go by, if they do. The keys of deferred events must be known before they are routed
    /// (see `Reader::route_deferred`).
    pub fn pointer(&self) -> Option<&str> {
        match &self.partition_by {
            PartitionBy::DataProperty(pointer) => Some(pointer),
            PartitionBy::Tenant | PartitionBy::EventStream => None,
        }
    }

    /// The lane of an event.
    pub fn lane(&self, event: &Event) -> LaneKey {
        let key: Arc<str> = match &self.partition_by {
            PartitionBy::Tenant => event.tenant.as_shared(),
            PartitionBy::EventStream => (*event.stream).into(),
            PartitionBy::DataProperty(pointer) => match &event.deferred {
                None => property(&event.data, pointer).into(),
                Some(deferred) => deferred.key(pointer).unwrap_or_else(|| own_key(event).into()),
            },
        };
        LaneKey { tenant: event.tenant.clone(), key }
    }

    /// The events of a page by lane, each lane's in the page's order; lanes in the order of their first event.
    pub fn route(&self, events: &[Arc<Event>]) -> Vec<(LaneKey, Vec<Arc<Event>>)> {
        let mut lanes: Vec<(LaneKey, Vec<Arc<Event>>)> = Vec::new();
        let mut index: HashMap<LaneKey, usize> = HashMap::new();
        // Where a tenant is a lane, its neighbour in the log often is the same one.
        let mut last: Option<(TenantId, usize)> = None;
        for event in events {
            if !self.takes(event) {
                continue;
            }
            if let (PartitionBy::Tenant, Some((tenant, at))) = (&self.partition_by, &last)
                && *tenant == event.tenant
            {
                lanes[*at].1.push(event.clone());
                continue;
            }
            let lane = self.lane(event);
            let at = *index.entry(lane).or_insert_with_key(|lane| {
                lanes.push((lane.clone(), Vec::new()));
                lanes.len() - 1
            });
            lanes[at].1.push(event.clone());
            last = Some((event.tenant.clone(), at));
        }
        lanes
    }
}

/// The key of an event whose property nobody can read: a lane of its own, so that it holds back no other event. It does not depend on
/// any setting, so an event never changes its lane.
pub(super) fn own_key(event: &Event) -> String {
    let mut key = format!("unread event {}", event.id);
    key.truncate(key.floor_char_boundary(KEY_BYTES));
    key
}

/// The text of the property that a pointer names: a string without its quotes, anything else as JSON; empty where there is none,
/// and cut where it is too long.
pub(super) fn property(data: &str, pointer: &str) -> String {
    let value: serde_json::Value = match serde_json::from_str(data) {
        Ok(value) => value,
        Err(_) => return String::new(),
    };
    let mut key = match value.pointer(pointer) {
        None | Some(serde_json::Value::Null) => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    key.truncate(key.floor_char_boundary(KEY_BYTES));
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ProcessorId;

    fn event(position: i64, tenant: &str, stream: &str, event_type: &str, data: &str) -> Arc<Event> {
        Arc::new(Event {
            position,
            id: position.to_string().into(),
            tenant: TenantId::parse(tenant).unwrap(),
            event_type: event_type.into(),
            stream: stream.into(),
            version: 1,
            recorded_at: 0,
            data: data.into(),
            metadata: "{}".into(),
            deferred: None,
        })
    }

    fn router(event_types: Option<&[&str]>, partition_by: PartitionBy) -> Router {
        let descriptor = Descriptor::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        Router::new(&Descriptor {
            event_types: event_types.map(|types| types.iter().map(|t| t.to_string()).collect()),
            partition_by,
            ..descriptor
        })
    }

    fn routed(router: &Router, events: &[Arc<Event>]) -> Vec<String> {
        let lanes = router.route(events);
        lanes
            .iter()
            .map(|(lane, events)| {
                let positions: Vec<String> = events.iter().map(|e| e.position.to_string()).collect();
                format!("{}/{}: {}", lane.tenant, lane.key, positions.join(" "))
            })
            .collect()
    }

    #[test]
    fn lanes_keep_the_order_of_the_page() {
        let page = [
            event(1, "a", "s1", "X", r#"{"c":{"id":"k"}}"#),
            event(2, "b", "s1", "Y", r#"{"c":{"id":7}}"#),
            event(3, "a", "s2", "Y", "[]"),
            event(4, "a", "s1", "Z", r#"{"c":{"id":"k"}}"#),
        ];
        assert_eq!(routed(&router(None, PartitionBy::Tenant), &page), ["a/a: 1 3 4", "b/b: 2"]);
        assert_eq!(routed(&router(Some(&["Z", "X"]), PartitionBy::Tenant), &page), ["a/a: 1 4"]);
        assert_eq!(routed(&router(None, PartitionBy::EventStream), &page), ["a/s1: 1 4", "b/s1: 2", "a/s2: 3"]);
        let by_property = PartitionBy::DataProperty("/c/id".into());
        assert_eq!(routed(&router(None, by_property), &page), ["a/k: 1 4", "b/7: 2", "a/: 3"]);
    }

    #[test]
    fn a_long_value_is_cut_between_two_characters() {
        let long = |last: &str| format!(r#"["{}{last}"]"#, "ü".repeat(400));
        let router = router(None, PartitionBy::DataProperty("/0".into()));
        let lanes = router.route(&[event(1, "a", "s", "X", &long("x")), event(2, "a", "s", "X", &long("y"))]);
        assert_eq!((lanes.len(), lanes[0].0.key.len()), (1, KEY_BYTES));
        let odd = router.lane(&event(3, "a", "s", "X", &format!(r#"["x{}"]"#, "ü".repeat(400))));
        assert_eq!(odd.key.len(), KEY_BYTES - 1);
    }

    #[test]
    fn others_tenants_events_are_passed_over() {
        let descriptor = Descriptor::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        let tenants = ["globex", "acme"].map(|name| TenantId::parse(name).unwrap());
        let router = Router::new(&Descriptor { tenants: Some(tenants.into()), ..descriptor });
        let events = ["acme", "globex", "other"].map(|tenant| event(1, tenant, "s", "T", "{}"));
        let taken: Vec<bool> = events.iter().map(|event| router.takes(event)).collect();
        assert_eq!(taken, [true, true, false]);
    }
}
