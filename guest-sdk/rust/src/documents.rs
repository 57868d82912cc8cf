//! Reads of the processor's own documents of the lane's tenant. A read sees the effects of all
//! earlier batches of this lane and none of the current one. Each call may be a round trip to the
//! database, so read all documents of a batch at once.

use serde::{Serialize, de::DeserializeOwned};

use crate::Halt;

/// Reads documents: one entry per id, in order, `None` if there is no such document. A collection
/// that the descriptor does not list ends the call.
///
/// # Errors
///
/// A document that is not a `T` stops the lane with the code `unreadable-document`. When documents
/// change their shape, raise the descriptor's
/// [read-model version](crate::Descriptor::read_model_version).
pub fn get_many<T: DeserializeOwned>(collection: &str, ids: &[impl AsRef<str>]) -> Result<Vec<Option<T>>, Halt> {
    let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    let texts = get_many_text(collection, &ids);
    ids.iter().zip(texts).map(|(id, text)| text.map(|text| parse(collection, id, &text)).transpose()).collect()
}

/// Reads a document. For several documents, [`get_many`] is cheaper.
///
/// # Errors
///
/// As for [`get_many`].
pub fn get<T: DeserializeOwned>(collection: &str, id: &str) -> Result<Option<T>, Halt> {
    let text = get_many_text(collection, &[id]).pop().flatten();
    text.map(|text| parse(collection, id, &text)).transpose()
}

/// Reads documents as JSON texts, otherwise like [`get_many`].
pub fn get_many_text(collection: &str, ids: &[&str]) -> Vec<Option<String>> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::documents::get_many(collection, ids);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::documents(collection, ids)
}

pub(crate) fn parse<T: DeserializeOwned>(collection: &str, id: &str, text: &str) -> Result<T, Halt> {
    serde_json::from_str(text).map_err(|error| Halt::stop("unreadable-document", format!("{collection} {id}: {error}")))
}

pub(crate) fn text_of<T: Serialize>(collection: &str, id: &str, document: &T) -> Result<String, Halt> {
    serde_json::to_string(document)
        .map_err(|error| Halt::stop("unwritable-document", format!("{collection} {id}: {error}")))
}
