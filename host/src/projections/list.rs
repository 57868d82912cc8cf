//! Listing documents for people and scripts.

use std::pin::Pin;

use futures_util::{Stream, TryStreamExt, stream};

use crate::db::{Error, Row, RowStream, Session, describe, is_about_a_row, types::ToSql};

/// One document, as it is listed.
pub struct Listed {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub id: String,
    /// How many commits touched it.
    pub version: i64,
    /// JSON text without the host's keys, or why it cannot be shown.
    pub data: Result<String, String>,
}

/// The largest document that is listed, bytes as PostgreSQL prints it. Default 64 MiB: no plugin may write as much.
const LARGEST: i64 = 64 << 20;

/// Which documents to list.
#[derive(Default)]
pub struct Selection {
    /// Of one tenant only.
    pub tenant: Option<String>,
    /// With this id only.
    pub id: Option<String>,
    /// At most so many.
    pub limit: Option<i64>,
    /// Behind this tenant and id only.
    pub after: Option<(String, String)>,
}

/// A collection, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Whose it is; none where it is everybody's.
    pub tenant: Option<String>,
    /// The name that its plugin knows.
    pub name: String,
    /// Its view's name, which no other collection has.
    pub view: String,
    /// The view as SQL names it: with its schema, quoted where needed.
    pub relation: String,
    /// The processor that writes it; none where that was removed.
    pub processor: Option<String>,
    /// The processor that was removed and whose documents were kept.
    pub kept_from: Option<String>,
    /// About how many documents it has, where the database knows.
    pub documents: Option<i64>,
}

/// All collections: everybody's, and then the tenants' own.
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

/// Of all collections those that a person means by a name, which may be a view's: `orders` is
/// everybody's and every tenant's own, `orders@acme` is tenant acme's. With a tenant they are
/// everybody's and that tenant's.
pub fn named<'a>(all: &'a [Collection], name: &str, tenant: Option<&str>) -> Vec<&'a Collection> {
    let is_meant = |of: &&Collection| {
        let may_have = of.tenant.is_none() || tenant.is_none() || of.tenant.as_deref() == tenant;
        (of.name == name || of.view == name) && may_have
    };
    all.iter().filter(is_meant).collect()
}

/// The documents of a collection that exists, by tenant and id, without holding all of them in memory. One that the database cannot return is
/// listed with what is wrong, and those behind it follow.
pub fn documents<'a>(
    session: &'a Session,
    collection: &Collection,
    selection: Selection,
) -> impl Stream<Item = Result<Listed, Error>> + use<'a> {
    let listing = Listing { session, view: collection.relation.clone(), selection, rows: None };
    stream::try_unfold(listing, async |mut listing| Ok(listing.next().await?.map(|listed| (listed, listing))))
}

/// A listing under way.
struct Listing<'a> {
    session: &'a Session,
    view: String,
    selection: Selection,
    rows: Option<Pin<Box<RowStream>>>,
}

impl Listing<'_> {
    async fn next(&mut self) -> Result<Option<Listed>, Error> {
        let rows = match self.rows.take() {
            Some(rows) => self.rows.insert(rows),
            None => self.rows.insert(Box::pin(self.open().await?)),
        };
        match rows.try_next().await {
            Ok(row) => Ok(row.map(|row| {
                let too_large = || {
                    format!("PostgreSQL prints it with {} bytes, more than {} MiB", row.get::<_, i32>(4), LARGEST >> 20)
                };
                let data = row.get::<_, Option<String>>(3).ok_or_else(too_large);
                self.passed(Listed { tenant: row.get(0), id: row.get(1), version: row.get(2), data })
            })),
            Err(error) if is_about_a_row(&error) => {
                // Rows arrive in order, so the one that could not be sent follows the last that was.
                self.rows = None;
                let row = self.first().await?;
                let data = || Err(describe(&error));
                Ok(row.map(|row| {
                    self.passed(Listed { tenant: row.get(0), id: row.get(1), version: row.get(2), data: data() })
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// What is opened next begins behind this document.
    fn passed(&mut self, listed: Listed) -> Listed {
        self.selection.after = Some((listed.tenant.clone(), listed.id.clone()));
        self.selection.limit = self.selection.limit.map(|limit| limit - 1);
        listed
    }

    async fn open(&self) -> Result<RowStream, Error> {
        let Selection { tenant, id, limit, after } = &self.selection;
        let (after_tenant, after_id) = after.as_ref().map(|(tenant, id)| (tenant, id)).unzip();
        let params: [&(dyn ToSql + Sync); 6] = [tenant, id, limit, &after_tenant, &after_id, &LARGEST];
        self.session.query_raw(&include_str!("list/documents.sql").replace("{view}", &self.view), params).await
    }

    /// The first document that is left, without its data.
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
    fn a_name_means_everybodys_collection_and_the_tenants_own() {
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
            named(&all, name, tenant).iter().map(|of| of.view.as_str()).collect::<Vec<_>>()
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
