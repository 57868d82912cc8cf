//! Sandmill's own event store as a source.
//!
//! A difference is read in one of two forms:
//!
//! - The **narrow** form looks up the difference's transactions by xid and reads all of their
//!   events. It serves live tailing, where a difference is a handful of events among millions.
//! - The **wide** form begins at the lowest position of the difference and pages along the primary
//!   key. It serves imports and catching up, and differences that overflow the narrow form.
//!
//! Each statement runs on a primary, because the snapshot of a standby leaves out running
//! transactions. Its transaction is read-only and has no xid, because a transaction with an xid
//! counts itself as finished.
//!
//! A page ends as soon as it reaches its bound in bytes. Rows that arrive after that are dropped
//! unread. These rows are bounded too, because the statements leave out large data. That data is
//! loaded by position when a lane needs it.

pub mod lag;

use std::{collections::HashMap, ops::RangeInclusive, sync::Arc, time::UNIX_EPOCH};

use futures_util::{Stream, TryStreamExt};

use lag::ProgressBinds;

use super::{Body, EXAMINED_EVENTS, EventSource, Limit, OpenSource, SourceError, TenantPage};
use crate::{
    db::{Db, Error, GenericClient, JsonText, Row, Session, Statement, pool, types::ToSql},
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Deferred, Event, Page},
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

    /// Opens a session for a reader.
    pub async fn session(&self, purpose: &str) -> Result<NativeSession, SourceError> {
        let session = self.db.connect(purpose).await?;
        session.execute(include_str!("native/session.sql"), &[]).await?;
        let statements = ReadStatements {
            head: session.prepare("select pg_current_snapshot()::text").await?,
            narrow: session.prepare(include_str!("native/narrow.sql")).await?,
            floor: session.prepare(include_str!("native/floor.sql")).await?,
            first: session.prepare(include_str!("native/first.sql")).await?,
            wide: session.prepare(include_str!("native/wide.sql")).await?,
            tenant_floor: session.prepare(include_str!("native/tenant_floor.sql")).await?,
            tenant_page: session.prepare(include_str!("native/tenant_page.sql")).await?,
            lag: session.prepare(lag::LOG).await?,
            tenant_lag: session.prepare(lag::TENANTS).await?,
        };
        Ok(NativeSession {
            session,
            statements,
            last: [None, None],
            load: None,
            set_aside: [None, None],
            texts: TextCache::default(),
        })
    }
}

impl OpenSource for Native {
    fn open(&self, purpose: &str) -> BoxFuture<'_, Result<Box<dyn EventSource>, SourceError>> {
        let purpose = purpose.to_string();
        Box::pin(async move { Ok(Box::new(self.session(&purpose).await?) as Box<dyn EventSource>) })
    }
}

/// The prepared statements of a reader's session.
struct ReadStatements {
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

/// A reader's session on the native event store.
pub struct NativeSession {
    session: Session,
    statements: ReadStatements,
    /// Statements for the last events, of all tenants and of one; prepared on first use.
    last: [Option<Statement>; 2],
    /// The statement for deferred data; prepared on first use.
    load: Option<Statement>,
    /// Statements for events at positions and for those of a stream; prepared on first use.
    set_aside: [Option<Statement>; 2],
    texts: TextCache,
}

/// A cache of strings that many events share.
#[derive(Default)]
struct TextCache {
    /// Parsed tenant names, so that events of one tenant share one string.
    tenants: HashMap<Box<str>, TenantId>,
    /// Event types, and the empty metadata.
    texts: HashMap<Box<str>, Arc<str>>,
}

/// The events of one statement, and whether they were cut short at the limit of bytes.
struct EventsRead {
    events: Vec<Arc<Event>>,
    cut: bool,
}

/// Number of tenant names that a session caches before it clears them: a bound on memory.
const CACHED_TENANTS: usize = 10_000;
/// The same for other strings.
const CACHED_TEXTS: usize = 1_000;

impl NativeSession {
    async fn read_head(&self) -> Result<Snapshot, SourceError> {
        let row = self.session.query_one(&self.statements.head, &[]).await?;
        Ok(row.get::<_, &str>(0).parse()?)
    }

    /// The page after a progress: in the narrow form if the difference is small, otherwise in the
    /// wide form.
    async fn read_page(&mut self, after: &Progress, limit: Limit) -> Result<Page, SourceError> {
        let limit = Limit { events: limit.events.max(1), ..limit };
        if let Some(rest) = after.remainder() {
            let last = match rest.after {
                Some(last) => last,
                None => self.floor(&rest.from, &rest.to).await?.saturating_sub(1),
            };
            return self.wide_page(after, &rest, last, limit).await;
        }
        if after.seen().is_nothing() {
            // From the empty snapshot on, every event belongs to the difference, so no lookup by
            // xid is needed.
            let to = self.read_head().await?;
            let Some(first) = self.position(&self.statements.first, &[]).await? else {
                return Ok(Page { from: after.clone(), to: Progress::at(to), events: Vec::new() });
            };
            return self.enter(after, to, first, limit).await;
        }
        let (to, EventsRead { mut events, cut }) = self.narrow(after.seen(), limit).await?;
        // These events come in no order, so a part of them is not a page. They are read again by
        // position.
        if cut || events.len() > limit.events {
            drop(events);
            let floor = self.floor(after.seen(), &to).await?;
            return self.enter(after, to, floor, limit).await;
        }
        events.sort_unstable_by_key(|e| e.position);
        Ok(Page { from: after.clone(), to: Progress::at(to), events })
    }

    /// The lowest position of a difference; the highest possible position if it is empty.
    async fn floor(&self, from: &Snapshot, to: &Snapshot) -> Result<i64, SourceError> {
        let floor = if from.is_nothing() {
            self.position(&self.statements.first, &[]).await?
        } else {
            self.position(&self.statements.floor, &[&from.to_string(), &to.to_string()]).await?
        };
        Ok(floor.unwrap_or(i64::MAX))
    }

    /// The number of events that follow a progress, at most `limit`.
    async fn read_lag(&self, tenant: Option<&TenantId>, from: &Progress, limit: usize) -> Result<usize, SourceError> {
        let (binds, limit) = (ProgressBinds::of(from), i64::try_from(limit).unwrap_or(i64::MAX));
        let ProgressBinds { seen, to, last, .. } = &binds;
        let (row, column) = match tenant {
            Some(tenant) => {
                let (tenants, numbers) = (vec![tenant.as_str()], vec![1_i64]);
                let params: [&(dyn ToSql + Sync); 6] = [&tenants, &numbers, seen, to, last, &limit];
                // No row if no events follow.
                (self.session.query_opt(&self.statements.tenant_lag, &params).await?, 2)
            }
            None => (self.session.query_opt(&self.statements.lag, &[seen, to, last, &limit]).await?, 1),
        };
        let count: i64 = row.map_or(0, |row| row.get(column));
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The current snapshot, and the events that it sees and `from` does not, at most one more than
    /// the limit.
    async fn narrow(&mut self, from: &Snapshot, limit: Limit) -> Result<(Snapshot, EventsRead), SourceError> {
        let (from, rows, inline) = (from.to_string(), limit.events as i64 + 1, limit.inline_bytes() as i32);
        let params: [&(dyn ToSql + Sync); 3] = [&from, &rows, &inline];
        let mut rows = std::pin::pin!(self.session.query_raw(&self.statements.narrow, params).await?);
        let first = rows.try_next().await?;
        let head = first.as_ref().map_or(Ok(""), |row| row.try_get(9))?.parse()?;
        Ok((head, self.texts.read(rows, limit).await?))
    }

    /// The first page of a large difference whose lowest position is `first`.
    async fn enter(&mut self, after: &Progress, to: Snapshot, first: i64, limit: Limit) -> Result<Page, SourceError> {
        let difference =
            Difference { from: after.seen().clone(), to: to.clone(), after: None, up_to: None, then: Progress::at(to) };
        self.wide_page(after, &difference, first.saturating_sub(1), limit).await
    }

    async fn wide_page(
        &mut self,
        at: &Progress,
        difference: &Difference,
        after: i64,
        limit: Limit,
    ) -> Result<Page, SourceError> {
        let (from, to) = (difference.from.to_string(), difference.to.to_string());
        let (rows, inline) = (limit.events as i64, limit.inline_bytes() as i32);
        let params: [&(dyn ToSql + Sync); 5] = [&from, &to, &after, &rows, &inline];
        let rows = self.session.query_raw(&self.statements.wide, params).await?;
        let EventsRead { events, cut } = self.texts.read(rows, limit).await?;
        let to = match events.last() {
            Some(last) if cut || events.len() == limit.events => difference.handled_up_to(last.position),
            _ => difference.then.clone(),
        };
        Ok(Page { from: at.clone(), to, events })
    }

    async fn read_tenant_page(
        &mut self,
        tenant: &TenantId,
        difference: &Difference,
        limit: Limit,
    ) -> Result<TenantPage, SourceError> {
        let (from, to) = (difference.from.to_string(), difference.to.to_string());
        let after = match difference.after {
            Some(after) => after,
            None => {
                let floor = self.position(&self.statements.tenant_floor, &[&from, &to, &tenant.as_str()]).await?;
                let Some(floor) = floor else { return Ok(TenantPage { events: Vec::new(), more: false }) };
                floor - 1
            }
        };
        let up_to = difference.up_to.unwrap_or(i64::MAX);
        let (tenant, rows, inline) = (tenant.as_str(), limit.events as i64, limit.inline_bytes() as i32);
        let params: [&(dyn ToSql + Sync); 7] = [&from, &to, &tenant, &after, &up_to, &rows, &inline];
        let rows = self.session.query_raw(&self.statements.tenant_page, params).await?;
        let EventsRead { events, cut } = self.texts.read(rows, limit).await?;
        let more = cut || events.len() == limit.events;
        Ok(TenantPage { events, more })
    }

    async fn read_last(
        &mut self,
        tenant: Option<&TenantId>,
        types: Option<&[String]>,
        up_to: i64,
        limit: Limit,
    ) -> Result<Vec<Arc<Event>>, SourceError> {
        let (sql, number) = match tenant {
            None => (include_str!("native/last.sql"), 0),
            Some(_) => (include_str!("native/tenant_last.sql"), 1),
        };
        let statement = match &self.last[number] {
            Some(statement) => statement.clone(),
            None => self.last[number].insert(self.session.prepare(sql).await?).clone(),
        };
        let (looked_at, rows, tenant) = (EXAMINED_EVENTS as i64, limit.events as i64, tenant.map(TenantId::as_str));
        let inline = limit.inline_bytes() as i32;
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&up_to, &types, &looked_at, &rows];
        params.extend(tenant.iter().map(|tenant| tenant as &(dyn ToSql + Sync)));
        params.push(&inline);
        let rows = self.session.query_raw(&statement, params).await?;
        // The newest events come first, so an early end leaves out the oldest.
        let mut events = self.texts.read(rows, limit).await?.events;
        events.sort_unstable_by_key(|event| event.position);
        Ok(events)
    }

    async fn read_at(&mut self, tenant: &TenantId, positions: &[i64], limit: Limit) -> Result<TenantPage, SourceError> {
        let statement = self.set_aside_statement(0, include_str!("native/at.sql")).await?;
        let (tenant, rows, inline) = (tenant.as_str(), limit.events as i64, limit.inline_bytes() as i32);
        let params: [&(dyn ToSql + Sync); 4] = [&tenant, &positions, &rows, &inline];
        self.read_some(&statement, &params, limit).await
    }

    async fn read_stream(
        &mut self,
        tenant: &TenantId,
        stream: &str,
        versions: RangeInclusive<i64>,
        limit: Limit,
    ) -> Result<TenantPage, SourceError> {
        let statement = self.set_aside_statement(1, include_str!("native/of_stream.sql")).await?;
        let (tenant, rows, inline) = (tenant.as_str(), limit.events as i64, limit.inline_bytes() as i32);
        let params: [&(dyn ToSql + Sync); 6] = [&tenant, &stream, versions.start(), versions.end(), &rows, &inline];
        self.read_some(&statement, &params, limit).await
    }

    async fn set_aside_statement(&mut self, number: usize, sql: &str) -> Result<Statement, SourceError> {
        Ok(match &self.set_aside[number] {
            Some(statement) => statement.clone(),
            None => self.set_aside[number].insert(self.session.prepare(sql).await?).clone(),
        })
    }

    /// The events of a statement, and whether there may be more.
    async fn read_some(
        &mut self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
        limit: Limit,
    ) -> Result<TenantPage, SourceError> {
        let rows = self.session.query_raw(statement, params.iter().copied()).await?;
        let EventsRead { events, cut } = self.texts.read(rows, limit).await?;
        let more = cut || events.len() == limit.events;
        Ok(TenantPage { events, more })
    }

    async fn read_bodies(
        &mut self,
        positions: &[i64],
        bytes: usize,
        most: Option<u64>,
    ) -> Result<Vec<Body>, SourceError> {
        let statement = match &self.load {
            Some(statement) => statement.clone(),
            None => self.load.insert(self.session.prepare(include_str!("native/load.sql")).await?).clone(),
        };
        let most = most.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let params: [&(dyn ToSql + Sync); 3] = [&positions, &bytes, &most];
        let rows = self.session.query_raw(&statement, params).await?;
        let bodies: Vec<Body> = rows.and_then(|row| std::future::ready(body(&row))).try_collect().await?;
        match (positions.first(), bodies.first()) {
            (Some(position), None) => Err(SourceError::Gone(*position)),
            _ => Ok(bodies),
        }
    }

    async fn position(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<i64>, SourceError> {
        Ok(self.session.query_one(statement, params).await?.get(0))
    }
}

/// The first version of a stream within bounds whose event has one of these types, or any type;
/// none if there is no such event.
pub async fn first_version(
    client: &impl GenericClient,
    tenant: &str,
    stream: &str,
    versions: RangeInclusive<i64>,
    types: Option<&[String]>,
) -> Result<Option<i64>, Error> {
    let params: [&(dyn ToSql + Sync); 5] = [&tenant, &stream, versions.start(), versions.end(), &types];
    Ok(client.query_one(include_str!("native/first_version.sql"), &params).await?.get(0))
}

/// The data of an event; without texts if the row has nulls instead.
fn body(row: &Row) -> Result<Body, Error> {
    let (data, metadata): (Option<JsonText<'_>>, Option<JsonText<'_>>) = (row.try_get(2)?, row.try_get(3)?);
    let texts = data.zip(metadata).map(|(data, metadata)| (data.0.into(), metadata.0.into()));
    let [bytes, most] = [row.try_get::<_, i64>(1)?, row.try_get::<_, i64>(4)?].map(i64::unsigned_abs);
    Ok(Body { position: row.try_get(0)?, bytes, most, texts })
}

impl TextCache {
    /// Makes events from rows as they arrive, until they hold twice the requested bytes. The slack
    /// is worth its memory: the number of rows was only estimated from the recent weight of events,
    /// and rows that are left out must be sent again.
    async fn read(
        &mut self,
        rows: impl Stream<Item = Result<Row, Error>>,
        limit: Limit,
    ) -> Result<EventsRead, SourceError> {
        let mut rows = std::pin::pin!(rows);
        let (mut events, mut held) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            if held > limit.held_bytes() {
                return Ok(EventsRead { events, cut: true });
            }
            let event = self.event(&row, limit.inline_bytes())?;
            held += event.weight();
            events.push(Arc::new(event));
        }
        Ok(EventsRead { events, cut: false })
    }

    /// An event from its row. Its data is deferred if the row has none, because it exceeds `inline`
    /// bytes.
    fn event(&mut self, row: &Row, inline: usize) -> Result<Event, SourceError> {
        let position = row.get(0);
        let recorded_at: std::time::SystemTime = row.get(6);
        let recorded_at = match recorded_at.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        let (data, metadata): (Option<JsonText<'_>>, Option<JsonText<'_>>) = (row.try_get(7)?, row.try_get(8)?);
        let (data, metadata, deferred) = match (data, metadata) {
            (Some(JsonText(data)), Some(JsonText(metadata))) => (data, metadata, None),
            _ => ("", "{}", Some(Deferred::new(inline))),
        };
        let name: &str = row.get(2);
        let tenant = match self.tenants.get(name) {
            Some(tenant) => tenant.clone(),
            None => {
                let tenant = TenantId::parse(name)
                    .map_err(|problem| SourceError::Row { position, problem: problem.to_string() })?;
                if self.tenants.len() >= CACHED_TENANTS {
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
            deferred,
        })
    }

    /// The shared string that equals this text.
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(cached) = self.texts.get(text) {
            return cached.clone();
        }
        if self.texts.len() >= CACHED_TEXTS {
            self.texts.clear();
        }
        let shared: Arc<str> = text.into();
        self.texts.insert(text.into(), shared.clone());
        shared
    }
}

impl EventSource for NativeSession {
    fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async move { Ok(pool::PooledConnection::assign(&mut self.session, purpose).await?) })
    }

    fn head(&mut self) -> BoxFuture<'_, Result<Snapshot, SourceError>> {
        Box::pin(self.read_head())
    }

    fn page<'a>(&'a mut self, after: &'a Progress, limit: Limit) -> BoxFuture<'a, Result<Page, SourceError>> {
        Box::pin(self.read_page(after, limit))
    }

    fn tenant_page<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        difference: &'a Difference,
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>> {
        Box::pin(self.read_tenant_page(tenant, difference, limit))
    }

    fn last<'a>(
        &'a mut self,
        tenant: Option<&'a TenantId>,
        types: Option<&'a [String]>,
        up_to: i64,
        limit: Limit,
    ) -> BoxFuture<'a, Result<Vec<Arc<Event>>, SourceError>> {
        Box::pin(self.read_last(tenant, types, up_to, limit))
    }

    fn at<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        positions: &'a [i64],
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>> {
        Box::pin(self.read_at(tenant, positions, limit))
    }

    fn of_stream<'a>(
        &'a mut self,
        tenant: &'a TenantId,
        stream: &'a str,
        versions: RangeInclusive<i64>,
        limit: Limit,
    ) -> BoxFuture<'a, Result<TenantPage, SourceError>> {
        Box::pin(self.read_stream(tenant, stream, versions, limit))
    }

    fn load<'a>(
        &'a mut self,
        positions: &'a [i64],
        bytes: usize,
        most: Option<u64>,
    ) -> BoxFuture<'a, Result<Vec<Body>, SourceError>> {
        Box::pin(self.read_bodies(positions, bytes, most))
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
