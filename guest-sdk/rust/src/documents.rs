//! Reading the processor's own documents of the lane's tenant. A read sees the effects of all earlier batches of this lane and
//! none of the current one. Ask once for all documents of a batch: each call may be a trip to the database.

use serde::{Serialize, de::DeserializeOwned};

use crate::Halt;

/// One entry for each id, in order; `None` where there is no such document. A document that is not a `T` stops the lane with the
/// code `unreadable-document`: raise the descriptor's read model version when documents change their shape. A collection that
/// the descriptor does not list ends the call.
pub fn get_many<T: DeserializeOwned>(collection: &str, ids: &[impl AsRef<str>]) -> Result<Vec<Option<T>>, Halt> {
    let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    let texts = get_many_text(collection, &ids);
    ids.iter().zip(texts).map(|(id, text)| text.map(|text| parse(collection, id, &text)).transpose()).collect()
}

/// One document; see [`get_many`], which is cheaper than several of these.
pub fn get<T: DeserializeOwned>(collection: &str, id: &str) -> Result<Option<T>, Halt> {
    let text = get_many_text(collection, &[id]).pop().flatten();
    text.map(|text| parse(collection, id, &text)).transpose()
}

/// As [`get_many`], but the JSON texts as they are.
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
