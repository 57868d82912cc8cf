//! Backlogs: many events of one tenant, appended in large statements.

use anyhow::Context;
use sandmill::db::Session;

/// Maximum number of events of one append.
const CHUNK: usize = 500;
/// Bytes of one append, unless one event has more.
const CHUNK_BYTES: usize = 8 << 20;

/// Appends `count` events with the same data, to `streams` streams in turn, a few hundred at a
/// time.
pub async fn append(session: &Session, tenant: &str, streams: usize, data: &str, count: usize) -> anyhow::Result<()> {
    let chunk = (CHUNK_BYTES / data.len().max(1)).clamp(1, CHUNK);
    for (number, begin) in (0..count).step_by(chunk).enumerate() {
        let events = chunk.min(count - begin);
        append_to(session, tenant, &format!("s{}", number % streams), data, events).await?;
    }
    Ok(())
}

/// Appends `count` events with the same data to one stream, in one statement.
pub async fn append_to(session: &Session, tenant: &str, stream: &str, data: &str, count: usize) -> anyhow::Result<()> {
    let (types, data) = (vec!["Worked"; count], vec![data; count]);
    let sql = "select count(*) from sandmill.append($1, $2, $3, $4::text[]::json[])";
    session.query_one(sql, &[&tenant, &stream, &types, &data]).await.context("append a backlog")?;
    Ok(())
}
