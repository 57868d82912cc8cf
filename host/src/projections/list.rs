//! Listing documents for people and scripts.

use futures_util::{Stream, TryStreamExt};

use crate::{
    db::{Error, Session},
    model::ids::CollectionName,
};

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

/// Names of all collections, for an error that says which there are.
pub async fn collections(session: &Session) -> Result<Vec<String>, Error> {
    let rows = session.query("select name from sandmill.collections order by name", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The documents of a collection that exists, by tenant and id, without holding all of them in memory.
pub async fn documents(
    session: &Session,
    collection: &CollectionName,
    selection: &Selection,
) -> Result<impl Stream<Item = Result<Listed, Error>> + use<>, Error> {
    let sql = include_str!("list/documents.sql").replace("{view}", &format!("public.{collection}"));
    let params: [&(dyn crate::db::types::ToSql + Sync); 3] = [&selection.tenant, &selection.id, &selection.limit];
    let rows = session.query_raw(&sql, params).await?;
    Ok(rows.map_ok(|row| Listed { tenant: row.get(0), id: row.get(1), version: row.get(2), data: row.get(3) }))
}
