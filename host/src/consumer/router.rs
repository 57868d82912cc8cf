//! The routing of events: which ones a processor handles, and the lane of each. Pure.

use std::{collections::HashMap, sync::Arc};

use crate::model::{
    event::Event,
    handler::Reason,
    ids::{LaneKey, TenantId},
    partition_key::Pointer,
    spec::{PartitionBy, ProcessorSpec},
};

/// The key of the lane for a tenant's events whose partition key cannot be read. The lane stops at
/// the first of them ([`Router::unreadable`]), so that none is handled out of order with the events
/// of its real key.
const UNREADABLE: &str = "(unreadable)";

/// A processor's subscription and partitioning, prepared for fast matching of each event.
#[derive(Clone)]
pub struct Router {
    /// Sorted; `None` means every type.
    event_types: Option<Arc<[Box<str>]>>,
    /// Sorted; `None` means all tenants.
    tenants: Option<Arc<[TenantId]>>,
    partitioning: Partitioning,
}

/// The rule that gives an event its lane.
#[derive(Clone)]
enum Partitioning {
    Tenant,
    Stream,
    Property { pointer: Pointer, text: Arc<str> },
}

impl Router {
    /// A router for the subscription in a spec.
    pub fn new(spec: &ProcessorSpec) -> Self {
        let mut event_types: Option<Vec<Box<str>>> =
            spec.descriptor.event_types.as_ref().map(|types| types.iter().map(|t| t.as_str().into()).collect());
        if let Some(types) = &mut event_types {
            types.sort();
        }
        let mut tenants = spec.tenants.clone();
        if let Some(tenants) = &mut tenants {
            tenants.sort();
        }
        Router {
            event_types: event_types.map(Into::into),
            tenants: tenants.map(Into::into),
            partitioning: match &spec.descriptor.partition_by {
                PartitionBy::Tenant => Partitioning::Tenant,
                PartitionBy::EventStream => Partitioning::Stream,
                PartitionBy::DataProperty(pointer) => {
                    Partitioning::Property { pointer: Pointer::parse(pointer), text: pointer.as_str().into() }
                }
            },
        }
    }

    /// Whether the processor handles this event.
    pub fn handles(&self, event: &Event) -> bool {
        if self.tenants.as_ref().is_some_and(|tenants| tenants.binary_search(&event.tenant).is_err()) {
            return false;
        }
        match &self.event_types {
            None => true,
            Some(types) => types.binary_search_by(|t| (**t).cmp(&event.event_type)).is_ok(),
        }
    }

    /// The pointer to the property that decides the lane, if one does. Deferred events store their
    /// keys under it.
    pub(super) fn pointer(&self) -> Option<&str> {
        match &self.partitioning {
            Partitioning::Property { text, .. } => Some(text),
            Partitioning::Tenant | Partitioning::Stream => None,
        }
    }

    /// The partition key in this data, or why it cannot be read; none if no property decides the
    /// lane.
    pub(super) fn key(&self, data: &str) -> Option<Result<Arc<str>, Arc<str>>> {
        let Partitioning::Property { pointer, .. } = &self.partitioning else { return None };
        let key = pointer.key(data);
        Some(key.map(|key| (*key).into()).map_err(|why| why.to_string().into()))
    }

    /// The lane of an event. If a property decides it, the keys of deferred events must have been
    /// [found](super::pages::Reader::route_deferred) before.
    pub fn lane(&self, event: &Event) -> LaneKey {
        let key: Arc<str> = match &self.partitioning {
            Partitioning::Tenant => event.tenant.as_shared(),
            Partitioning::Stream => (*event.stream).into(),
            Partitioning::Property { pointer, text } => match &event.deferred {
                None => pointer.key(&event.data).map_or(UNREADABLE.into(), |key| (*key).into()),
                Some(deferred) => deferred.key(text).and_then(Result::ok).unwrap_or(UNREADABLE.into()),
            },
        };
        LaneKey { tenant: event.tenant.clone(), key }
    }

    /// The first of a lane's events whose partition key cannot be read, with the reason. The lane
    /// must stop there.
    pub fn unreadable(&self, lane: &LaneKey, events: &[Arc<Event>]) -> Option<(usize, Reason)> {
        let Partitioning::Property { pointer, text } = &self.partitioning else { return None };
        if *lane.key != *UNREADABLE {
            return None;
        }
        let why = |event: &Event| match &event.deferred {
            None => pointer.key(&event.data).err().map(|why| why.to_string()),
            Some(deferred) => match deferred.key(text) {
                Some(key) => key.err().map(|why| why.to_string()),
                None => Some("it was not read".into()),
            },
        };
        let (index, why) = events.iter().enumerate().find_map(|(index, event)| Some((index, why(event)?)))?;
        let message = format!(
            "the data of event `{}` cannot be read, so its lane is unknown (data-property `{text}`): {why}; delete it and append a correct one, \
             then `sandmill resume`",
            events[index].id
        );
        Some((index, Reason::new("unreadable-data", message)))
    }

    /// The events of a page by lane. The events of a lane are in the order of the page, and the
    /// lanes in the order of their first event.
    pub fn route(&self, events: &[Arc<Event>]) -> Vec<(LaneKey, Vec<Arc<Event>>)> {
        let mut lanes: Vec<(LaneKey, Vec<Arc<Event>>)> = Vec::new();
        let mut index: HashMap<LaneKey, usize> = HashMap::new();
        // If a lane is a tenant, consecutive events often belong to the same one.
        let mut last: Option<(TenantId, usize)> = None;
        for event in events {
            if !self.handles(event) {
                continue;
            }
            if let (Partitioning::Tenant, Some((tenant, at))) = (&self.partitioning, &last)
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
        let mut spec = ProcessorSpec::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        spec.descriptor.event_types = event_types.map(|types| types.iter().map(|t| t.to_string()).collect());
        spec.descriptor.partition_by = partition_by;
        Router::new(&spec)
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
    fn events_of_a_lane_keep_the_order_of_the_page() {
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
    fn events_with_one_partition_key_share_a_lane_even_with_huge_numbers_beside_it() {
        let page = [
            event(1, "a", "s", "X", r#"{"door":"north"}"#),
            event(2, "a", "s", "X", r#"{"door":"north","reading":1e400}"#),
            event(3, "a", "s", "X", r#"{"reading":1e400}"#),
            event(4, "a", "s", "X", r#"{"door":"north"}"#),
        ];
        let router = router(None, PartitionBy::DataProperty("/door".into()));
        assert_eq!(routed(&router, &page), ["a/north: 1 2 4", "a/: 3"]);
    }

    #[test]
    fn an_event_with_an_unreadable_key_stops_only_the_lane_of_such_events() {
        let page = [
            event(1, "a", "s", "X", r#"{"door":"north"}"#),
            event(2, "a", "s", "X", r#"{"door":"(unreadable)"}"#),
            event(3, "a", "s", "X", r#"{"door":"\u0000"}"#),
            event(4, "a", "s", "X", "{}"),
        ];
        let by_door = router(None, PartitionBy::DataProperty("/door".into()));
        assert_eq!(routed(&by_door, &page), ["a/north: 1", "a/(unreadable): 2 3", "a/: 4"]);
        let stops: Vec<Option<(usize, String)>> = by_door
            .route(&page)
            .iter()
            .map(|(lane, events)| by_door.unreadable(lane, events).map(|(at, reason)| (at, reason.to_string())))
            .collect();
        let reason = "unreadable-data: the data of event `3` cannot be read, so its lane is unknown (data-property `/door`): expected a \
                      key without U+0000 at byte 16; delete it and append a correct one, then `sandmill resume`";
        assert_eq!(stops, [None, Some((1, reason.to_string())), None]);

        let by_stream = router(None, PartitionBy::EventStream);
        let page = [event(1, "a", UNREADABLE, "X", "nonsense")];
        let (lane, events) = &by_stream.route(&page)[0];
        assert!(by_stream.unreadable(lane, events).is_none(), "its lane is known");
    }

    #[test]
    fn events_of_other_tenants_are_not_handled() {
        let spec = ProcessorSpec::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        let tenants = ["globex", "acme"].map(|name| TenantId::parse(name).unwrap());
        let router = Router::new(&ProcessorSpec { tenants: Some(tenants.into()), ..spec });
        let events = ["acme", "globex", "other"].map(|tenant| event(1, tenant, "s", "T", "{}"));
        let taken: Vec<bool> = events.iter().map(|event| router.handles(event)).collect();
        assert_eq!(taken, [true, true, false]);
    }
}
