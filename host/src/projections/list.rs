//! Listing documents for people and scripts.

use std::pin::Pin;

use futures_util::{Stream, TryStreamExt, stream};

use crate::{
    db::{Error, Row, RowStream, Session, describe, is_about_a_row, types::ToSql},
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

/// Names of all collections, for an error that says which there are.
pub async fn collections(session: &Session) -> Result<Vec<String>, Error> {
    let rows = session.query("select name from sandmill.collections order by name", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The documents of a collection that exists, by tenant and id, without holding all of them in memory. One that the database cannot return is
/// listed with what is wrong, and those behind it follow.
pub fn documents<'a>(
    session: &'a Session,
    collection: &CollectionName,
    selection: Selection,
) -> impl Stream<Item = Result<Listed, Error>> + use<'a> {
    let listing = Listing { session, view: format!("public.{collection}"), selection, rows: None };
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
