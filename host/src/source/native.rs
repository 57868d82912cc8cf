//! Sandmill's own event store as a source.
//!
//! A difference is read in one of two ways. The narrow form looks its transactions up by xid and takes it whole; it serves live
//! tailing, where a difference is a handful of events among millions. When it overflows, the difference is entered at its lowest
//! position and paged along the primary key, the wide form, which serves imports and catching up. Either way each statement runs on
//! a primary in a read-only transaction that has no xid of its own: a standby's snapshot leaves out running transactions, and a
//! transaction with an xid counts itself as finished.

use std::{collections::HashMap, sync::Arc, time::UNIX_EPOCH};

use super::{EventSource, LOOKED_AT, OpenSource, SourceError};
use crate::{
    db::{Db, JsonText, Row, Session, Statement},
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Event, Page},
        handler::BoxFuture,
        ids::TenantId,
    },
};

/// The event store in the schema `sandmill` of a database.
#[derive(Clone)]
pub struct Native {
    db: Db,
}

impl Native {
    /// The event store of this database.
    pub fn new(db: Db) -> Self {
        Native { db }
    }

    /// A session for a reader.
    pub async fn session(&self, purpose: &str) -> Result<NativeSession, SourceError> {
        let session = self.db.connect(purpose).await?;
        session.execute(include_str!("native/session.sql"), &[]).await?;
        let statements = Statements {
            head: session.prepare("select pg_current_snapshot()::text").await?,
            narrow: session.prepare(include_str!("native/narrow.sql")).await?,
            floor: session.prepare(include_str!("native/floor.sql")).await?,
            first: session.prepare(include_str!("native/first.sql")).await?,
            wide: session.prepare(include_str!("native/wide.sql")).await?,
            tenant_floor: session.prepare(include_str!("native/tenant_floor.sql")).await?,
            tenant_page: session.prepare(include_str!("native/tenant_page.sql")).await?,
            lag: session.prepare(include_str!("native/lag.sql")).await?,
            tenant_lag: session.prepare(include_str!("native/tenant_lag.sql")).await?,
        };
        Ok(NativeSession { session, statements, last: [None, None], tenants: HashMap::new(), texts: HashMap::new() })
    }
}

impl OpenSource for Native {
    fn open(&self, purpose: &str) -> BoxFuture<'_, Result<Box<dyn EventSource>, SourceError>> {
        let purpose = purpose.to_string();
        Box::pin(async move { Ok(Box::new(self.session(&purpose).await?) as Box<dyn EventSource>) })
    }
}

struct Statements {
    head: Statement,
    narrow: Statement,
    floor: Statement,
    first: Statement,
    wide: Statement,
    tenant_floor: Statement,
    tenant_page: Statement,
    lag: Statement,
    tenant_lag: Statement,
}

/// One reader's session.
pub struct NativeSession {
    session: Session,
    statements: Statements,
    /// How the last events are read, of all and of one tenant, once they were.
    last: [Option<Statement>; 2],
    /// Names parsed before, so that events of one tenant share one text.
    tenants: HashMap<Box<str>, TenantId>,
    /// Types, and the metadata of events that have none, seen before.
    texts: HashMap<Box<str>, Arc<str>>,
}

/// How many tenant names a session remembers before it forgets them all: a bound on memory, no more.
const TENANTS_REMEMBERED: usize = 10_000;
/// The same for other texts.
const TEXTS_REMEMBERED: usize = 1_000;

impl NativeSession {
    async fn read_head(&self) -> Result<Snapshot, SourceError> {
        let row = self.session.query_one(&self.statements.head, &[]).await?;
        Ok(row.get::<_, &str>(0).parse()?)
    }

    async fn read_page(&mut self, after: &Progress, limit: usize) -> Result<Page, SourceError> {
        let limit = limit.max(1);
        if let Some(rest) = after.remainder() {
            let last = match rest.after {
                Some(last) => last,
                None => self.floor(&rest.from, &rest.to).await?.saturating_sub(1),
            };
            return self.wide_page(after, &rest, last, limit).await;
        }
        if after.seen().is_nothing() {
            // Everything is new: no need to look anything up by xid.
            let to = self.read_head().await?;
            let Some(first) = self.position(&self.statements.first, &[]).await? else {
                return Ok(Page { from: after.clone(), to: Progress::at(to), events: Vec::new() });
            };
            return self.enter(after, to, first, limit).await;
        }
        let (to, rows) = self.narrow(after.seen(), limit + 1).await?;
        if rows.len() > limit {
            let floor = self.floor(after.seen(), &to).await?;
            return self.enter(after, to, floor, limit).await;
        }
        let mut events = self.events(rows)?;
        events.sort_unstable_by_key(|e| e.position);
        Ok(Page { from: after.clone(), to: Progress::at(to), events })
    }

    /// The lowest position of a difference; above all others where it is empty.
    async fn floor(&self, from: &Snapshot, to: &Snapshot) -> Result<i64, SourceError> {
        let floor = if from.is_nothing() {
            self.position(&self.statements.first, &[]).await?
        } else {
            self.position(&self.statements.floor, &[&from.to_string(), &to.to_string()]).await?
        };
        Ok(floor.unwrap_or(i64::MAX))
    }

    async fn read_lag(&self, tenant: Option<&TenantId>, from: &Progress, limit: usize) -> Result<usize, SourceError> {
        let seen = from.seen().to_string();
        let (to, last) = match from.remainder() {
            Some(rest) => (rest.to.to_string(), rest.after.unwrap_or(i64::MIN)),
            None => (seen.clone(), i64::MIN),
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let count = match tenant {
            Some(tenant) => {
                let params: [&(dyn crate::db::types::ToSql + Sync); 5] = [&seen, &to, &last, &tenant.as_str(), &limit];
                self.position(&self.statements.tenant_lag, &params).await?
            }
            None => self.position(&self.statements.lag, &[&seen, &to, &last, &limit]).await?,
        };
        Ok(usize::try_from(count.unwrap_or(0)).unwrap_or(0))
    }

    /// The snapshot now and at most `limit` events that it sees and `from` does not, in one round trip. Every statement is prepared: one
    /// that were not would travel twice, the second time behind the commit, and see more than its transaction did.
    async fn narrow(&self, from: &Snapshot, limit: usize) -> Result<(Snapshot, Vec<Row>), SourceError> {
        let (from, limit) = (from.to_string(), limit as i64);
        let params: [&(dyn crate::db::types::ToSql + Sync); 2] = [&from, &limit];
        let (begun, head, rows, ended) = tokio::join!(
            biased;
            self.session.batch_execute("begin isolation level repeatable read, read only"),
            self.session.query_one(&self.statements.head, &[]),
            self.session.query(&self.statements.narrow, &params),
            self.session.batch_execute("commit"),
        );
        begun?;
        let (head, rows) = (head?, rows?);
        ended?;
        Ok((head.get::<_, &str>(0).parse()?, rows))
    }

    /// The first page of a large difference whose lowest position is `first`.
    async fn enter(&mut self, after: &Progress, to: Snapshot, first: i64, limit: usize) -> Result<Page, SourceError> {
        let difference =
            Difference { from: after.seen().clone(), to: to.clone(), after: None, up_to: None, then: Progress::at(to) };
        self.wide_page(after, &difference, first.saturating_sub(1), limit).await
    }

    async fn wide_page(
        &mut self,
        at: &Progress,
        difference: &Difference,
        after: i64,
        limit: usize,
    ) -> Result<Page, SourceError> {
        let (from, to) = (difference.from.to_string(), difference.to.to_string());
        let rows = self.session.query(&self.statements.wide, &[&from, &to, &after, &(limit as i64)]).await?;
        let events = self.events(rows)?;
        let to = match events.last() {
            Some(last) if events.len() == limit => difference.handled_up_to(last.position),
            _ => difference.then.clone(),
        };
        Ok(Page { from: at.clone(), to, events })
    }

    async fn read_tenant_page(
        &mut self,
        tenant: &TenantId,
        difference: &Difference,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, SourceError> {
        let (from, to) = (difference.from.to_string(), difference.to.to_string());
        let after = match difference.after {
            Some(after) => after,
            None => {
                let floor = self.position(&self.statements.tenant_floor, &[&from, &to, &tenant.as_str()]).await?;
                let Some(floor) = floor else { return Ok(Vec::new()) };
                floor - 1
            }
        };
        let up_to = difference.up_to.unwrap_or(i64::MAX);
        let rows = self
            .session
            .query(&self.statements.tenant_page, &[&from, &to, &tenant.as_str(), &after, &up_to, &(limit as i64)])
            .await?;
        self.events(rows)
    }

    async fn read_last(
        &mut self,
        tenant: Option<&TenantId>,
        types: Option<&[String]>,
        up_to: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, SourceError> {
        let (sql, number) = match tenant {
            None => (include_str!("native/last.sql"), 0),
            Some(_) => (include_str!("native/tenant_last.sql"), 1),
        };
        let statement = match &self.last[number] {
            Some(statement) => statement.clone(),
            None => self.last[number].insert(self.session.prepare(sql).await?).clone(),
        };
        let (looked_at, limit, tenant) = (LOOKED_AT as i64, limit as i64, tenant.map(TenantId::as_str));
        let mut params: Vec<&(dyn crate::db::types::ToSql + Sync)> = vec![&up_to, &types, &looked_at, &limit];
        params.extend(tenant.iter().map(|tenant| tenant as &(dyn crate::db::types::ToSql + Sync)));
        let rows = self.session.query(&statement, &params).await?;
        let mut events = self.events(rows)?;
        events.sort_unstable_by_key(|event| event.position);
        Ok(events)
    }

    async fn position(
        &self,
        statement: &Statement,
        params: &[&(dyn crate::db::types::ToSql + Sync)],
    ) -> Result<Option<i64>, SourceError> {
        Ok(self.session.query_one(statement, params).await?.get(0))
    }

    fn events(&mut self, rows: Vec<Row>) -> Result<Vec<Arc<Event>>, SourceError> {
        rows.into_iter().map(|row| self.event(&row).map(Arc::new)).collect()
    }

    fn event(&mut self, row: &Row) -> Result<Event, SourceError> {
        let position = row.get(0);
        let recorded_at: std::time::SystemTime = row.get(6);
        let recorded_at = match recorded_at.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        let JsonText(data) = row.try_get(7)?;
        let JsonText(metadata) = row.try_get(8)?;
        let name: &str = row.get(2);
        let tenant = match self.tenants.get(name) {
            Some(tenant) => tenant.clone(),
            None => {
                let tenant = TenantId::parse(name)
                    .map_err(|problem| SourceError::Row { position, problem: problem.to_string() })?;
                if self.tenants.len() >= TENANTS_REMEMBERED {
                    self.tenants.clear();
                }
                self.tenants.insert(name.into(), tenant.clone());
                tenant
            }
        };
        Ok(Event {
            position,
            id: row.get::<_, &str>(1).into(),
            tenant,
            event_type: self.shared(row.get(3)),
            stream: row.get::<_, &str>(4).into(),
            version: row.get(5),
            recorded_at,
            data: data.into(),
            metadata: if metadata == "{}" { self.shared(metadata) } else { metadata.into() },
        })
    }

    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= TEXTS_REMEMBERED {
            self.texts.clear();
        }
        let shared: Arc<str> = text.into();
        self.texts.insert(text.into(), shared.clone());
        shared
    }
}

impl EventSource for NativeSession {
    fn head(&mut self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        Box::pin(self.read_head())
    }

    fn page<'a>(&'a mut self, after: &'a Progress, limit: usize) -> BoxFuture<'a, Result<Page, SourceError>> {
        Box::pin(self.read_page(after, limit))
    }

    fn tenant_page<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        difference: &'a Difference,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>> {
        Box::pin(self.read_tenant_page(tenant, difference, limit))
    }

    fn last<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        types: Option<&'a [String]>,
        up_to: i64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>> {
        Box::pin(self.read_last(tenant, types, up_to, limit))
    }

    fn lag<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        from: &'a Progress,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, SourceError>> {
        Box::pin(self.read_lag(tenant, from, limit))
    }
}
