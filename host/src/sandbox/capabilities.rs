//! The capabilities of a guest: the host's functions for documents, log and settings.
//!
//! Documents are read through [`Documents`](crate::model::handler::Documents), so nothing here
//! knows where they are stored. A call that the contract forbids ends the guest; the reason is kept
//! for the failure of the whole call.

use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker};

use super::{
    bindings::{
        BrokenText, Texts,
        v0_1::{self, Text, documents, documents_packed, logging, packed_types, settings},
    },
    failure,
    guest::GuestState,
};
use crate::model::{
    handler::{Failure, Reason},
    ids,
};

/// Bytes of ids that one `get-many` may name. 2 MiB: the default of `limits.reads` with a hundred
/// bytes each.
const IDS_BYTES: usize = 2 << 20;

/// Links the functions under the names of every version and form of the contract.
pub(super) fn link(linker: &mut Linker<GuestState>) -> anyhow::Result<()> {
    v0_1::ProjectorPlugin::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
        .and_then(|()| packed_types::add_to_linker::<_, HasSelf<_>>(linker, |state| state))
        .and_then(|()| documents_packed::add_to_linker::<_, HasSelf<_>>(linker, |state| state))
        .map_err(|e| anyhow::anyhow!("link the contract: {e:#}"))
}

impl logging::Host for GuestState {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> wasmtime::Result<()> {
        self.log.lock().line(self.identity.name(), level, &context, &message);
        Ok(())
    }
}

impl documents::Host for GuestState {
    async fn get_many(&mut self, collection: String, ids: Vec<String>) -> wasmtime::Result<Vec<Option<String>>> {
        let found = self.read(&collection, &ids).await.map_err(|failure| self.fail(failure))?;
        Ok(found.into_iter().map(|data| data.map(|text| text.to_string())).collect())
    }
}

impl documents_packed::Host for GuestState {
    async fn get_many(
        &mut self,
        collection: String,
        texts: String,
        ids: Vec<Text>,
    ) -> wasmtime::Result<documents_packed::Found> {
        let ids = self.unpack_ids(&texts, &ids).map_err(|failure| self.fail(failure))?;
        let found = self.read(&collection, &ids).await.map_err(|failure| self.fail(failure))?;
        let mut texts = Texts::with_capacity(found.iter().flatten().map(|text| text.len()).sum());
        let documents = found.iter().map(|data| data.as_ref().map(|text| texts.push(text))).collect();
        Ok(documents_packed::Found { texts: texts.into_string(), documents })
    }
}

impl GuestState {
    /// The ids of a packed read. They are bounded before any is copied, since ranges may overlap.
    fn unpack_ids(&self, texts: &str, ids: &[Text]) -> Result<Vec<String>, Failure> {
        self.check_ids(ids.len(), ids.iter().map(|id| id.length as usize).sum())?;
        let id = |id: &Text| BrokenText::check("a document's id", texts, *id).map(str::to_owned);
        let ids = ids.iter().map(id).collect::<Result<_, _>>();
        ids.map_err(|broken| Failure::Block(Reason::new("malformed-output", broken.to_string())))
    }

    /// Checks that one call may name this many ids, with this many bytes.
    fn check_ids(&self, ids: usize, bytes: usize) -> Result<(), Failure> {
        let too_many = |message| Failure::Block(Reason::new("reads-limit", message));
        let most = self.call.reads;
        if ids > most {
            return Err(too_many(format!(
                "asked for {ids} documents in one call, more than the {most} of limits.reads"
            )));
        }
        if bytes > IDS_BYTES {
            return Err(too_many(format!(
                "asked for documents whose ids have {bytes} bytes together; one call may name {} KiB of ids, \
                 so split the call",
                IDS_BYTES >> 10
            )));
        }
        Ok(())
    }

    async fn read(&mut self, collection: &str, ids: &[String]) -> Result<Vec<Option<Arc<str>>>, Failure> {
        let refuse = |message: String| Failure::Block(Reason::new("refused-call", message));
        let Some(documents) = &self.call.documents else {
            return Err(refuse("`describe` may call only `logging`".into()));
        };
        let Some(name) = self.identity.collection(collection) else {
            return Err(refuse(format!(
                "read collection `{}`, which its descriptor does not list",
                collection.chars().take(80).collect::<String>()
            )));
        };
        self.check_ids(ids.len(), ids.iter().map(String::len).sum())?;
        if let Some(bad) = ids.iter().find(|id| !ids::is_document_id(id)) {
            return Err(refuse(format!(
                "read a document id of {} bytes in `{name}`; 1 to 512 without U+0000 are allowed",
                bad.len()
            )));
        }
        let found = documents.get_many(name, ids).await?;
        // A document that is named often enough would fill any memory. The guest's memory could not
        // hold the result either.
        let (bytes, most) = (found.iter().flatten().map(|text| text.len()).sum::<usize>(), self.growth.memory_bytes());
        if bytes > most {
            let message = format!(
                "read {} MiB of documents in one call, more than the {} MiB of its memory \
                 (limits.memory-mib)",
                bytes.div_ceil(1 << 20),
                most >> 20
            );
            return Err(Failure::Block(Reason::new("memory-limit", message)));
        }
        self.growth.hold_read(bytes).map_err(|denied| failure::growth_denied(denied, None))?;
        Ok(found)
    }
}

impl settings::Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        let found = self.settings.iter().find(|(known, _)| *known == key);
        Ok(found.map(|(_, value)| value.clone()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.settings.to_vec())
    }
}

impl v0_1::types::Host for GuestState {}

impl packed_types::Host for GuestState {}
