//! Checks of the descriptor that a plugin's author wrote. They turn the answer of `describe` into a
//! [`Descriptor`], which downstream code may trust.

use super::bindings::v0_1;
use crate::model::{
    ids::{CollectionName, FamilyId},
    spec::{Descriptor, PartitionBy, ProcessorKind, Start},
};

/// Event types that a descriptor may list: far more than a plugin has handlers for. Each is
/// compared with every event, stored with the processor and shown.
const EVENT_TYPES: usize = 1_000;
/// Length of a pointer to a property, bytes.
const POINTER_BYTES: usize = 512;

/// Accepts a descriptor that follows the contract's rules and this host's bounds.
pub(super) fn check(
    given: v0_1::Descriptor,
    kind: ProcessorKind,
    max_collections: usize,
) -> Result<Descriptor, String> {
    let wrong = |problem: String| format!("broke the contract: {problem}");
    // Bounds first, before the host copies the lists or quotes an entry.
    if given.collections.len() > max_collections {
        let listed = given.collections.len();
        return Err(format!("lists {listed} collections; limits.collections allows {max_collections}"));
    }
    if let Some(types) = given.event_types.as_ref().filter(|types| types.len() > EVENT_TYPES) {
        let listed = types.len();
        return Err(format!(
            "lists {listed} event types; {EVENT_TYPES} are allowed; omit the list to handle every type"
        ));
    }
    let id = FamilyId::parse(&given.id).map_err(|e| wrong(e.to_string()))?;
    let mut collections = Vec::new();
    for name in &given.collections {
        let name = CollectionName::parse(name).map_err(|e| wrong(e.to_string()))?;
        if collections.contains(&name) {
            return Err(wrong(format!("collection `{name}` is listed twice")));
        }
        collections.push(name);
    }
    if let Some(types) = &given.event_types {
        if types.is_empty() {
            return Err(wrong("an empty list of event types handles nothing; omit it to handle every type".into()));
        }
        if let Some(bad) = types.iter().find(|t| t.is_empty() || t.len() > 200 || t.contains('\0')) {
            return Err(wrong(format!(
                "`{}` is not an event type; a type has 1 to 200 bytes without U+0000",
                quoted(bad)
            )));
        }
    }
    if given.max_batch_size == Some(0) {
        return Err(wrong("max-batch-size is 0; omit it to let the host choose".into()));
    }
    let partition_by = match given.partition_by {
        v0_1::PartitionBy::Tenant => PartitionBy::Tenant,
        v0_1::PartitionBy::EventStream => PartitionBy::EventStream,
        v0_1::PartitionBy::DataProperty(pointer) if pointer.len() > POINTER_BYTES => {
            let bytes = pointer.len();
            return Err(wrong(format!(
                "partitions by data-property with a pointer of {bytes} bytes; up to {POINTER_BYTES} are allowed"
            )));
        }
        v0_1::PartitionBy::DataProperty(pointer) if !is_json_pointer(&pointer) => {
            return Err(wrong(format!(
                "partitions by data-property `{}`, which is not a JSON pointer (RFC 6901); write `/customer` or \
                 `/customer/id`, with `~0` for `~` and `~1` for `/` in a name",
                quoted(&pointer)
            )));
        }
        v0_1::PartitionBy::DataProperty(pointer) => PartitionBy::DataProperty(pointer),
    };
    let start = match given.start {
        v0_1::StartPosition::Beginning => Start::Beginning,
        v0_1::StartPosition::Now => Start::Now,
    };
    Ok(Descriptor {
        id,
        kind,
        version: given.version.chars().filter(|c| !c.is_control()).take(100).collect(),
        event_types: given.event_types,
        collections,
        partition_by,
        start,
        read_model_version: given.read_model_version,
        max_batch_size: given.max_batch_size,
    })
}

/// The beginning of a guest's text, for a message.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether a text is a JSON pointer (RFC 6901): empty, or names that each follow a `/`, with `~`
/// only as `~0` or `~1`.
fn is_json_pointer(text: &str) -> bool {
    let escaped = |rest: &str| rest.starts_with(['0', '1']);
    (text.is_empty() || text.starts_with('/')) && text.split('~').skip(1).all(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_pointers_follow_their_rfc() {
        for good in ["", "/", "/a", "/a/b", "/a~0b/~1", "/ä b/0"] {
            assert!(is_json_pointer(good), "{good}");
        }
        for bad in ["a", "a/b", "~0", "/a~", "/a~2", "/~~0", "#/a"] {
            assert!(!is_json_pointer(bad), "{bad}");
        }
    }

    fn by_property(pointer: &str) -> v0_1::Descriptor {
        v0_1::Descriptor {
            id: "p".into(),
            version: String::new(),
            event_types: None,
            collections: Vec::new(),
            partition_by: v0_1::PartitionBy::DataProperty(pointer.into()),
            start: v0_1::StartPosition::Beginning,
            read_model_version: 1,
            max_batch_size: None,
        }
    }

    #[test]
    fn a_partition_property_must_be_a_json_pointer() {
        let accepted = check(by_property("/customer"), ProcessorKind::Projector, 32).unwrap();
        assert_eq!(accepted.partition_by, PartitionBy::DataProperty("/customer".into()));
        let refused = check(by_property("customer"), ProcessorKind::Projector, 32).unwrap_err();
        assert!(refused.contains("`customer`, which is not a JSON pointer (RFC 6901); write `/customer`"), "{refused}");
    }

    #[test]
    fn lists_and_texts_of_a_descriptor_are_bounded() {
        let names = |count: usize| (0..count).map(|number| format!("c{number}")).collect::<Vec<_>>();
        let collections = |count| v0_1::Descriptor { collections: names(count), ..by_property("/a") };
        assert_eq!(check(collections(32), ProcessorKind::Projector, 32).unwrap().collections.len(), 32);
        let refused = |given| check(given, ProcessorKind::Projector, 32).unwrap_err();
        assert_eq!(refused(collections(33)), "lists 33 collections; limits.collections allows 32");
        let types = |types| v0_1::Descriptor { event_types: Some(types), ..by_property("/a") };
        assert_eq!(
            check(types(names(1_000)), ProcessorKind::Projector, 32).unwrap().event_types.map(|types| types.len()),
            Some(1_000)
        );
        let many = "lists 1001 event types; 1000 are allowed; omit the list to handle every type";
        assert_eq!(refused(types(names(1_001))), many);
        let long = refused(types(vec!["x".repeat(1 << 20)]));
        assert!(long.ends_with("xxx…` is not an event type; a type has 1 to 200 bytes without U+0000"), "{long}");
        assert!(long.len() < 200, "{long}");
        assert!(check(by_property(&format!("/{}", "x".repeat(511))), ProcessorKind::Projector, 32).is_ok());
        let pointer = refused(by_property(&format!("/{}", "x".repeat(512))));
        assert!(pointer.ends_with("with a pointer of 513 bytes; up to 512 are allowed"), "{pointer}");
        assert!(refused(by_property(&"x".repeat(512))).len() < 400);
        let id = v0_1::Descriptor { id: "acme/p".into(), ..by_property("/a") };
        assert!(refused(id).contains("`acme/p` is not a valid processor id: 1 to 63 lowercase ASCII letters"));
    }
}
