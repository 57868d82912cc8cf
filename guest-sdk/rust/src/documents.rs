//! Reads of the processor's own documents of the lane's tenant. A read sees the effects of all
//! earlier batches of this lane and none of the current one. Each call may be a round trip to the
//! database, so read all documents of a batch at once.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Halt,
    bindings::sandmill::processor::documents_packed,
    texts::{Texts, text},
};

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
    let found = read(collection, &ids);
    ids.iter().zip(found.texts()).map(|(id, text)| text.map(|text| parse(collection, id, text)).transpose()).collect()
}

/// Reads a document. For several documents, [`get_many`] is cheaper.
///
/// # Errors
///
/// As for [`get_many`].
pub fn get<T: DeserializeOwned>(collection: &str, id: &str) -> Result<Option<T>, Halt> {
    let found = read(collection, &[id]);
    let text = found.texts().next().flatten();
    text.map(|text| parse(collection, id, text)).transpose()
}

/// Reads documents as JSON texts, otherwise like [`get_many`].
pub fn get_many_text(collection: &str, ids: &[&str]) -> Vec<Option<String>> {
    read(collection, ids).texts().map(|text| text.map(str::to_owned)).collect()
}

/// The answer of a read.
#[derive(Debug)]
pub(crate) struct Found(documents_packed::Found);

impl Found {
    /// The answer to a read in the plain form.
    fn of(found: &[Option<String>]) -> Self {
        let mut texts = Texts::with_capacity(found.iter().flatten().map(String::len).sum());
        let documents = found.iter().map(|text| text.as_ref().map(|text| texts.push(text))).collect();
        Found(documents_packed::Found { texts: texts.into_string(), documents })
    }

    /// The documents' texts, in the order of the ids.
    pub(crate) fn texts(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        self.0.documents.iter().map(|range| range.map(|range| text(&self.0.texts, range)))
    }
}

/// Reads documents as [`get_many_text`] does, without copying each.
pub(crate) fn read(collection: &str, ids: &[&str]) -> Found {
    #[cfg(target_arch = "wasm32")]
    {
        let read = READ.get().expect("an export chooses the form before it calls the plugin");
        read(collection, ids)
    }
    #[cfg(not(target_arch = "wasm32"))]
    Found::of(&crate::testing::documents(collection, ids))
}

/// The contract's function that reads documents, in the form that the plugin's world imports.
///
/// The exports of a world choose it, and only those of the plugin's own world are compiled. So a
/// component's code names one form, and the component imports no other.
#[cfg(target_arch = "wasm32")]
static READ: std::sync::OnceLock<fn(&str, &[&str]) -> Found> = std::sync::OnceLock::new();

/// Chooses the packed form.
pub(crate) fn choose_packed() {
    #[cfg(target_arch = "wasm32")]
    READ.get_or_init(|| read_packed);
}

/// Chooses the plain form.
pub(crate) fn choose_plain() {
    #[cfg(target_arch = "wasm32")]
    READ.get_or_init(|| read_plain);
}

#[cfg(target_arch = "wasm32")]
fn read_packed(collection: &str, ids: &[&str]) -> Found {
    let mut texts = Texts::with_capacity(ids.iter().map(|id| id.len()).sum());
    let ids: Vec<_> = ids.iter().map(|id| texts.push(id)).collect();
    Found(documents_packed::get_many(collection, &texts.into_string(), &ids))
}

#[cfg(target_arch = "wasm32")]
fn read_plain(collection: &str, ids: &[&str]) -> Found {
    Found::of(&crate::bindings::reactor::sandmill::processor::documents::get_many(collection, ids))
}

pub(crate) fn parse<T: DeserializeOwned>(collection: &str, id: &str, text: &str) -> Result<T, Halt> {
    serde_json::from_str(text).map_err(|error| Halt::stop("unreadable-document", format!("{collection} {id}: {error}")))
}

pub(crate) fn text_of<T: Serialize>(collection: &str, id: &str, document: &T) -> Result<String, Halt> {
    serde_json::to_string(document).map_err(|error| unwritable(collection, id, &error))
}

pub(crate) fn unwritable(collection: &str, id: &str, error: &serde_json::Error) -> Halt {
    Halt::stop("unwritable-document", format!("{collection} {id}: {error}"))
}
