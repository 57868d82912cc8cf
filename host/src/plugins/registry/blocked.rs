//! Retries of blocked lanes after a swap or on request.

use crate::{
    db::{Error, Session, describe},
    model::ids::{LaneKey, ProcessorId},
    processor::{code::CodeVersion, lane_checkpoints},
};

/// Retries all blocked lanes. Their failures do not count against `version`.
///
/// The exemption is recorded before the transaction commits, because the lanes may begin as soon as
/// it has.
pub(super) async fn retry_all(session: &Session, id: &ProcessorId, version: Option<&CodeVersion>) {
    let resumed = lane_checkpoints::resume_blocked(session, id.as_str(), |lane| {
        if let Some(version) = version {
            version.exempt([lane]);
        }
    });
    log_outcome(id, in_transaction(session, resumed).await);
}

/// Retries those of these lanes that are blocked. Their failures do not count against `version`.
pub(super) async fn retry(session: &Session, id: &ProcessorId, lanes: &[LaneKey], version: &CodeVersion) {
    let resumed = async {
        let resumed = lane_checkpoints::resume_these(session, id, lanes).await?;
        let lanes = resumed.len() as u64;
        version.exempt(resumed);
        Ok(lanes)
    };
    log_outcome(id, in_transaction(session, resumed).await);
}

/// Runs statements in one transaction of a session. Rolls it back if they fail.
async fn in_transaction<T>(session: &Session, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    session.batch_execute("begin").await?;
    match work.await {
        Ok(done) => session.batch_execute("commit").await.map(|()| done),
        Err(error) => {
            // Without a connection there is nothing left to roll back.
            let _ = session.batch_execute("rollback").await;
            Err(error)
        }
    }
}

/// Logs how many lanes were resumed, if there were any.
pub(super) fn log_outcome(id: &ProcessorId, resumed: Result<u64, Error>) {
    match resumed {
        Ok(0) => {}
        Ok(lanes) => tracing::info!(processor = %id, lanes, "blocked lanes try again"),
        Err(error) => tracing::warn!(processor = %id, "cannot retry blocked lanes: {}", describe(&error)),
    }
}
