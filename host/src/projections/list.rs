//! Listing documents for people and scripts.

use futures_util::{Stream, TryStreamExt};

use crate::db::{Error, Session};

/// One document, as it is listed.
pub struct Listed {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub id: String,
    /// How many commits touched it.
    pub version: i64,
    /// JSON text without the host's keys.
    pub data: String,
}

/// Which documents to list.
#[derive(Default)]
pub struct Selection {
    /// Of one tenant only.
    pub tenant: Option<String>,
    /// With this id only.
    pub id: Option<String>,
    /// At most so many.
    pub limit: Option<i64>,
}

/// A collection, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Whose it is; none where it is everybody's.
    pub tenant: Option<String>,
    /// The name that its plugin knows.
    pub name: String,
    /// Its view in `public`, which no other collection has.
    pub view: String,
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
    let listed = |row: &crate::db::Row| Collection {
        tenant: some(row.get(0)),
        name: row.get(1),
        view: row.get(2),
        processor: some(row.get(3)),
        kept_from: some(row.get(4)),
        documents: row.get(5),
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

/// The documents of a collection that exists, by tenant and id, without holding all of them in memory.
pub async fn documents(
    session: &Session,
    collection: &Collection,
    selection: &Selection,
) -> Result<impl Stream<Item = Result<Listed, Error>> + use<>, Error> {
    let sql = include_str!("list/documents.sql").replace("{view}", &format!("public.\"{}\"", collection.view));
    let params: [&(dyn crate::db::types::ToSql + Sync); 3] = [&selection.tenant, &selection.id, &selection.limit];
    let rows = session.query_raw(&sql, params).await?;
    Ok(rows.map_ok(|row| Listed { tenant: row.get(0), id: row.get(1), version: row.get(2), data: row.get(3) }))
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
