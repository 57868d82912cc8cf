//! Listings of collections and documents, for people and scripts.

use std::pin::Pin;

use futures_util::{Stream, TryStreamExt, stream};

use crate::{
    db::{Error, Row, RowStream, Session, describe, is_about_a_row, types::ToSql},
    model::ids::{CollectionName, ProcessorId},
};

/// A document in a listing.
pub struct ListedDocument {
    /// Its tenant.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// The number of commits that wrote it.
    pub version: i64,
    /// JSON text without the host's keys, or why it cannot be shown.
    pub data: Result<String, String>,
}

/// The largest document that is listed, in bytes of its text. 64 MiB: no plugin may write a
/// document that large.
const MAX_BYTES: i64 = 64 << 20;

/// The documents to list; by default all.
#[derive(Default)]
pub struct Selection {
    /// If given, only documents of this tenant.
    pub tenant: Option<String>,
    /// If given, only documents with this id.
    pub id: Option<String>,
    /// Maximum number of documents.
    pub limit: Option<i64>,
    /// If given, only documents after this tenant and id.
    pub after: Option<(String, String)>,
}

/// A collection in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// The tenant that owns it; none if it is shared.
    pub tenant: Option<String>,
    /// Its name in the plugin.
    pub name: String,
    /// The unique name of its view.
    pub view: String,
    /// The view in SQL: with its schema, quoted if needed.
    pub relation: String,
    /// The processor that writes it; none if that was removed.
    pub processor: Option<String>,
    /// The removed processor whose documents were kept.
    pub kept_from: Option<String>,
    /// The estimated number of documents, if the database has statistics.
    pub documents: Option<i64>,
}

/// All collections: shared ones, then the tenants' own.
pub async fn collections(session: &Session) -> Result<Vec<Collection>, Error> {
    let rows = session.query(include_str!("list/collections.sql"), &[]).await?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let listed = |row: &Row| Collection {
        tenant: some(row.get(0)),
        name: row.get(1),
        view: row.get(2),
        processor: some(row.get(3)),
        kept_from: some(row.get(4)),
        documents: row.get(5),
        relation: row.get(6),
    };
    Ok(rows.iter().map(listed).collect())
}

/// The collections that a processor writes.
pub async fn of_processor(session: &Session, processor: &ProcessorId) -> Result<Vec<CollectionName>, Error> {
    let rows =
        session.query("select name from sandmill.collections where processor = $1", &[&processor.as_str()]).await?;
    Ok(rows.iter().filter_map(|row| CollectionName::parse(row.get(0)).ok()).collect())
}

/// The collections with a name or a view's name: `orders` is the shared one and every tenant's own,
/// `orders@acme` is that of tenant acme. With a `tenant`, only the shared one and that tenant's.
pub fn named<'a>(all: &'a [Collection], name: &str, tenant: Option<&str>) -> Vec<&'a Collection> {
    let matches = |collection: &&Collection| {
        let Collection { tenant: owner, name: own_name, view, .. } = collection;
        let of_tenant = owner.is_none() || tenant.is_none() || owner.as_deref() == tenant;
        (own_name == name || view == name) && of_tenant
    };
    all.iter().filter(matches).collect()
}

/// The documents of an existing collection, by tenant and id, as a stream. A document that the
/// database cannot return is listed with the error, and the listing continues after it.
pub fn documents<'a>(
    session: &'a Session,
    collection: &Collection,
    selection: Selection,
) -> impl Stream<Item = Result<ListedDocument, Error>> + use<'a> {
    let listing = DocumentListing { session, view: collection.relation.clone(), selection, rows: None };
    stream::try_unfold(listing, async |mut listing| Ok(listing.next().await?.map(|document| (document, listing))))
}

/// A listing under way.
struct DocumentListing<'a> {
    session: &'a Session,
    view: String,
    selection: Selection,
    rows: Option<Pin<Box<RowStream>>>,
}

impl DocumentListing<'_> {
    /// The next document; none after the last one.
    async fn next(&mut self) -> Result<Option<ListedDocument>, Error> {
        let rows = match self.rows.take() {
            Some(rows) => self.rows.insert(rows),
            None => self.rows.insert(Box::pin(self.open().await?)),
        };
        match rows.try_next().await {
            Ok(row) => Ok(row.map(|row| {
                let too_large =
                    || format!("its text has {} bytes, more than {} MiB", row.get::<_, i32>(4), MAX_BYTES >> 20);
                let data = row.get::<_, Option<String>>(3).ok_or_else(too_large);
                self.passed(ListedDocument { tenant: row.get(0), id: row.get(1), version: row.get(2), data })
            })),
            Err(error) if is_about_a_row(&error) => {
                // Rows arrive in order, so the one with the error follows the last one that
                // arrived.
                self.rows = None;
                let row = self.first().await?;
                let data = || Err(describe(&error));
                Ok(row.map(|row| {
                    self.passed(ListedDocument {
                        tenant: row.get(0),
                        id: row.get(1),
                        version: row.get(2),
                        data: data(),
                    })
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the selection past a document, and returns it.
    fn passed(&mut self, document: ListedDocument) -> ListedDocument {
        self.selection.after = Some((document.tenant.clone(), document.id.clone()));
        self.selection.limit = self.selection.limit.map(|limit| limit - 1);
        document
    }

    async fn open(&self) -> Result<RowStream, Error> {
        let Selection { tenant, id, limit, after } = &self.selection;
        let (after_tenant, after_id) = after.as_ref().map(|(tenant, id)| (tenant, id)).unzip();
        let params: [&(dyn ToSql + Sync); 6] = [tenant, id, limit, &after_tenant, &after_id, &MAX_BYTES];
        self.session.query_raw(&include_str!("list/documents.sql").replace("{view}", &self.view), params).await
    }

    /// The first document of the remaining selection, without its data.
    async fn first(&self) -> Result<Option<Row>, Error> {
        let Selection { tenant, id, after, .. } = &self.selection;
        let (after_tenant, after_id) = after.as_ref().map(|(tenant, id)| (tenant, id)).unzip();
        let sql = include_str!("list/first.sql").replace("{view}", &self.view);
        self.session.query_opt(&sql, &[tenant, id, &after_tenant, &after_id]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_the_shared_collection_and_the_tenants_own() {
        let collection = |tenant: &str, name: &str, view: &str| Collection {
            tenant: Some(tenant.to_string()).filter(|tenant| !tenant.is_empty()),
            name: name.into(),
            view: view.into(),
            relation: format!("public.\"{view}\""),
            processor: Some("p".into()),
            kept_from: None,
            documents: None,
        };
        let all = [
            collection("", "orders", "orders"),
            collection("acme", "orders", "orders@acme"),
            collection("globex", "orders", "orders@#3"),
            collection("globex", "other", "other@globex"),
        ];
        let views = |name: &str, tenant: Option<&str>| {
            named(&all, name, tenant).iter().map(|collection| collection.view.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(views("orders", None), ["orders", "orders@acme", "orders@#3"]);
        assert_eq!(views("orders", Some("globex")), ["orders", "orders@#3"]);
        assert_eq!(views("orders", Some("initech")), ["orders"]);
        assert_eq!(views("orders@acme", None), ["orders@acme"]);
        assert_eq!(views("orders@#3", Some("globex")), ["orders@#3"]);
        assert_eq!(views("orders@acme", Some("globex")), Vec::<&str>::new());
        assert_eq!(views("nothing", None), Vec::<&str>::new());
    }
}
