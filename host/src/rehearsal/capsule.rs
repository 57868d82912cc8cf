//! A failure capsule: one file with all that a plugin needs to fail once more, apart from the
//! plugin itself. It is documented in `docs/plugins.md`.
//!
//! A capsule holds data of one tenant only. Its format has a number, which changes when a program
//! that reads the earlier format would misunderstand it. Keys that a reader does not know are
//! errors, so a capsule is never replayed without a part of it.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::documents::{FindDocuments, FoundDocument};
use crate::model::{
    event::Event,
    handler::{BoxFuture, Failure, Reason},
    ids::{CollectionName, InvalidName, LaneKey, ProcessorId, TenantId},
};

/// The number of the format that is written.
const FORMAT: u64 = 1;
/// The key of that number. It comes first in the file.
const FORMAT_KEY: &str = "sandmillCapsule";

/// A capsule as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capsule {
    /// The number of its format.
    #[serde(rename = "sandmillCapsule")]
    format: u64,
    /// When it was exported, RFC 3339.
    pub exported_at: String,
    /// The processor.
    pub processor: String,
    /// The tenant.
    pub tenant: String,
    /// The key of the lane.
    pub lane: String,
    /// The number of the failed attempt, from 1.
    pub attempt: u32,
    /// The failure as it was recorded.
    pub failure: CapsuleFailure,
    /// The plugin's functions at the failure, if they were recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backtrace: String,
    /// The last lines that the plugin logged during the attempt, if they were recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// The plugin.
    pub plugin: CapsulePlugin,
    /// The events of the failed call. A host halves a batch that fails until one event is left.
    pub events: Vec<CapsuleEvent>,
    /// The documents that the call read or wrote, before the call, also those that did not exist;
    /// none if they were left out.
    pub documents: Option<Vec<CapsuleDocument>>,
    /// Whether the documents may be newer than the failure, because the lane has continued since.
    pub documents_are_later: bool,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapsuleFailure {
    /// Its class.
    pub class: String,
    /// Its message.
    pub message: String,
}

/// The plugin with which the call failed, without its code.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapsulePlugin {
    /// The name of its file, without the ending.
    pub name: String,
    /// The author's version; empty if unknown.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// Its limits, by the names of the settings.
    pub limits: serde_json::Value,
    /// The tenant's bound on memory over all plugins, MiB.
    pub tenant_memory_mib: u32,
    /// Maximum number of events in one call; none if it is not bounded.
    pub max_batch_size: Option<u32>,
    /// The failure policy: the settings of the processor, and those of the manifest. A replay does
    /// not apply it.
    pub failures: [serde_json::Value; 2],
    /// The settings that the plugin can read for the tenant; none if they were left out.
    pub settings: Option<BTreeMap<String, String>>,
}

/// An event.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapsuleEvent {
    /// Its position.
    pub position: i64,
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its stream.
    pub stream: String,
    /// Its version in the stream.
    pub version: i64,
    /// When it was recorded, in milliseconds since 1970-01-01T00:00:00Z.
    pub recorded_at_ms: i64,
    /// Its data.
    pub data: Box<RawValue>,
    /// Its metadata.
    pub metadata: Box<RawValue>,
}

/// A document, or the fact that it does not exist or cannot be read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapsuleDocument {
    /// Its collection.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// Its data; none if it does not exist or cannot be read.
    pub data: Option<Box<RawValue>>,
    /// The key of the lane that it belongs to, if lanes are finer than tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Why it cannot be read, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<CapsuleFailure>,
}

/// The content of a capsule that is to be written.
pub struct CapsuleContent {
    /// When it was exported, RFC 3339.
    pub exported_at: String,
    /// The processor.
    pub processor: ProcessorId,
    /// The lane.
    pub lane: LaneKey,
    /// The number of the failed attempt, from 1.
    pub attempt: u32,
    /// The failure as it was recorded.
    pub failure: CapsuleFailure,
    /// The plugin's functions at the failure; may be empty.
    pub backtrace: String,
    /// The last lines that the plugin logged during the attempt; may be empty.
    pub log: String,
    /// The plugin.
    pub plugin: CapsulePlugin,
    /// The event.
    pub event: Arc<Event>,
    /// The documents; none to leave them out.
    pub documents: Option<Vec<CapsuleDocument>>,
    /// Whether the documents may be newer than the failure.
    pub documents_are_later: bool,
}

/// A capsule whose content was checked.
pub struct LoadedCapsule {
    /// The capsule.
    pub capsule: Capsule,
    /// The processor.
    pub processor: ProcessorId,
    /// The lane.
    pub lane: LaneKey,
    /// The events.
    pub events: Vec<Arc<Event>>,
    /// The documents, as an origin.
    pub documents: Arc<CapsuleDocuments>,
}

/// Why a file is not a capsule that this program can replay.
#[derive(Debug, thiserror::Error)]
pub enum CapsuleError {
    /// The file has another format.
    #[error(
        "it is not a failure capsule\nName a file that `sandmill dead-letters export` or `sandmill explain --capsule` wrote."
    )]
    NotCapsule,
    /// A newer program wrote it.
    #[error(
        "it is a failure capsule of format {0}, and this program reads format {FORMAT}\nReplay it with the version of sandmill that exported it, or with a newer one."
    )]
    OtherFormat(u64),
    /// The file ends early.
    #[error("it is a failure capsule whose end is missing\nCopy it again, or export it once more.")]
    Truncated,
    /// A part of it is wrong.
    #[error("it is a failure capsule with a mistake: {0}\nExport it once more; a capsule is not meant to be edited.")]
    Invalid(String),
}

impl From<InvalidName> for CapsuleError {
    fn from(error: InvalidName) -> Self {
        CapsuleError::Invalid(error.to_string())
    }
}

impl Capsule {
    /// A capsule with this content.
    pub fn new(content: CapsuleContent) -> Result<Self, serde_json::Error> {
        let CapsuleContent { processor, lane, event, .. } = &content;
        // Raw, so that data and metadata keep their spelling.
        let raw = |text: &str| RawValue::from_string(text.into());
        let event = CapsuleEvent {
            position: event.position,
            id: event.id.to_string(),
            event_type: event.event_type.to_string(),
            stream: event.stream.to_string(),
            version: event.version,
            recorded_at_ms: event.recorded_at,
            data: raw(&event.data)?,
            metadata: raw(&event.metadata)?,
        };
        Ok(Capsule {
            format: FORMAT,
            processor: processor.to_string(),
            tenant: lane.tenant.to_string(),
            lane: lane.key.to_string(),
            events: vec![event],
            exported_at: content.exported_at,
            attempt: content.attempt,
            failure: content.failure,
            backtrace: content.backtrace,
            log: content.log,
            plugin: content.plugin,
            documents: content.documents,
            documents_are_later: content.documents_are_later,
        })
    }

    /// Writes it, for people to read.
    pub fn write(&self, mut output: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut output, self)?;
        output.write_all(b"\n")?;
        output.flush()
    }

    /// Reads and checks a capsule.
    pub fn load(content: &[u8]) -> Result<LoadedCapsule, CapsuleError> {
        #[derive(Deserialize)]
        struct Format {
            #[serde(rename = "sandmillCapsule")]
            format: Option<u64>,
        }
        let begins = || {
            let start: String =
                String::from_utf8_lossy(&content[..content.len().min(200)]).split_whitespace().collect();
            start.starts_with(&format!("{{\"{FORMAT_KEY}\":"))
        };
        match serde_json::from_slice(content) {
            Ok(Format { format: Some(FORMAT) }) => {}
            Ok(Format { format: Some(other) }) => return Err(CapsuleError::OtherFormat(other)),
            // A number that is cut off may be invalid.
            Err(error) if begins() && (error.is_eof() || !content.trim_ascii_end().ends_with(b"}")) => {
                return Err(CapsuleError::Truncated);
            }
            Err(error) if begins() => return Err(CapsuleError::Invalid(error.to_string())),
            Ok(Format { format: None }) | Err(_) => return Err(CapsuleError::NotCapsule),
        }
        let capsule: Capsule =
            serde_json::from_slice(content).map_err(|error| CapsuleError::Invalid(error.to_string()))?;
        let (processor, tenant) = (ProcessorId::parse(&capsule.processor)?, TenantId::parse(&capsule.tenant)?);
        let lane = LaneKey { tenant: tenant.clone(), key: capsule.lane.as_str().into() };
        if capsule.attempt == 0 || capsule.events.is_empty() {
            return Err(CapsuleError::Invalid("it has no attempt or no event".into()));
        }
        let event = |event: &CapsuleEvent| {
            Arc::new(Event {
                position: event.position,
                id: event.id.as_str().into(),
                tenant: tenant.clone(),
                event_type: event.event_type.as_str().into(),
                stream: event.stream.as_str().into(),
                version: event.version,
                recorded_at: event.recorded_at_ms,
                data: event.data.get().into(),
                metadata: event.metadata.get().into(),
                deferred: None,
            })
        };
        let events = capsule.events.iter().map(event).collect();
        let documents = Arc::new(CapsuleDocuments::of(capsule.documents.as_deref().unwrap_or_default())?);
        Ok(LoadedCapsule { processor, lane, events, documents, capsule })
    }
}

/// The documents of a capsule, as an origin. It does not know any others.
pub struct CapsuleDocuments(HashMap<(CollectionName, String), Result<FoundDocument, Reason>>);

impl CapsuleDocuments {
    fn of(listed: &[CapsuleDocument]) -> Result<Self, CapsuleError> {
        let mut documents = HashMap::new();
        for CapsuleDocument { collection, id, data, lane, failure } in listed {
            let name = (CollectionName::parse(collection)?, id.clone());
            let found = FoundDocument {
                data: data.as_ref().map(|data| data.get().into()),
                owner: lane.as_deref().map(Into::into),
            };
            let document = failure.as_ref().map_or(Ok(found), |why| Err(Reason::new(&why.class, &*why.message)));
            if documents.insert(name, document).is_some() {
                return Err(CapsuleError::Invalid(format!("it lists document `{id}` of `{collection}` twice")));
            }
        }
        Ok(CapsuleDocuments(documents))
    }
}

impl FindDocuments for CapsuleDocuments {
    fn find<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<FoundDocument>>, Failure>> {
        let find = |id: &String| self.0.get(&(collection.clone(), id.clone())).cloned().transpose();
        let found = ids.iter().map(find).collect::<Result<_, Reason>>().map_err(Failure::Block);
        Box::pin(std::future::ready(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capsule as a file, with one event and these documents.
    fn file(documents: &str) -> String {
        let capsule = Capsule::new(CapsuleContent {
            exported_at: "2026-01-02T03:04:05Z".into(),
            processor: ProcessorId::parse("acme/orders").unwrap(),
            lane: LaneKey { tenant: TenantId::parse("acme").unwrap(), key: "order-1".into() },
            attempt: 2,
            failure: CapsuleFailure { class: "trap".into(), message: "no such\n\"seat\"".into() },
            backtrace: "0: orders::seat\n".into(),
            log: String::new(),
            plugin: CapsulePlugin {
                name: "acme/orders".into(),
                version: "0.1.0".into(),
                digest: "ab".repeat(32),
                limits: serde_json::json!({"cpu-ms": 7}),
                tenant_memory_mib: 256,
                max_batch_size: None,
                failures: [serde_json::json!({}), serde_json::json!({"trap": {"attempts": 2}})],
                settings: Some(BTreeMap::from([("currency".into(), "EUR".into())])),
            },
            event: Arc::new(Event {
                position: 7,
                id: "e-7".into(),
                tenant: TenantId::parse("acme").unwrap(),
                event_type: "Opened".into(),
                stream: "order-1".into(),
                version: 3,
                recorded_at: -5,
                data: "{ \"n\" : 1.10,\n\"n\": 1e400 }".into(),
                metadata: "{}".into(),
                deferred: None,
            }),
            documents: Some(serde_json::from_str(documents).unwrap()),
            documents_are_later: true,
        });
        let mut text = Vec::new();
        capsule.unwrap().write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    const DOCUMENTS: &str = r#"[{"collection":"c","id":"a","data":{"x":1.0},"lane":"order-1"},{"collection":"c","id":"b","data":null},
        {"collection":"c","id":"d","data":null,"failure":{"class":"document-unreadable","message":"damaged"}}]"#;

    #[tokio::test]
    async fn a_capsule_is_read_as_it_was_written() {
        let text = file(DOCUMENTS);
        let loaded = Capsule::load(text.as_bytes()).unwrap();
        assert_eq!((loaded.processor.as_str(), &*loaded.lane.key), ("acme/orders", "order-1"));
        let event = &loaded.events[0];
        assert_eq!((&*event.data, event.recorded_at, event.version), ("{ \"n\" : 1.10,\n\"n\": 1e400 }", -5, 3));
        assert_eq!((loaded.capsule.attempt, &*loaded.capsule.failure.message), (2, "no such\n\"seat\""));
        let collection = CollectionName::parse("c").unwrap();
        let find = async |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
            loaded.documents.find(&collection, &ids).await
        };
        let (data, owner) = (Some("{\"x\":1.0}".into()), Some("order-1".into()));
        let expected = vec![Some(FoundDocument { data, owner }), Some(FoundDocument::default()), None];
        assert_eq!(find(&["a", "b", "e"]).await, Ok(expected));
        assert_eq!(find(&["a", "d"]).await, Err(Failure::Block(Reason::new("document-unreadable", "damaged"))));
    }

    #[test]
    fn an_unusable_file_is_refused_with_its_defect() {
        let refused = |text: &str| Capsule::load(text.as_bytes()).err().unwrap().to_string();
        let good = file(DOCUMENTS);
        for text in ["", "{}", "[1]", "nonsense", "{\"sandmillCapsule\": \"1\"}x", "{\"tenant\":\"acme\"", "\u{0}asm"] {
            let refused = refused(text);
            assert!(refused.starts_with("it is ") && refused.contains("capsule"), "{text}: {refused}");
        }
        assert!(refused("{\"tenant\":\"acme\"}").starts_with("it is not a failure capsule\nName a file"));
        // No matter where it ends, it is never taken for whole.
        for end in (40..good.len() - 2).step_by(7) {
            let refused = refused(&good[..end]);
            assert!(refused.starts_with("it is a failure capsule whose end is missing"), "{end}: {refused}");
        }
        let newer = refused(&good.replace("\"sandmillCapsule\": 1", "\"sandmillCapsule\": 2"));
        assert!(newer.starts_with("it is a failure capsule of format 2, and this program reads format 1\n"), "{newer}");
        for (part, instead, expected) in [
            ("\"attempt\": 2", "\"attempt\": 0", "no attempt"),
            ("\"tenant\": \"acme\"", "\"tenant\": \"a b\"", "`a b` is not a valid"),
            ("\"attempt\"", "\"attempts\"", "unknown field `attempts`"),
            ("\"id\": \"b\"", "\"id\": \"a\"", "document `a` of `c` twice"),
        ] {
            let refused = refused(&good.replace(part, instead));
            assert!(refused.starts_with("it is a failure capsule with a mistake: "), "{refused}");
            assert!(refused.contains(expected), "{expected}: {refused}");
        }
    }
}
