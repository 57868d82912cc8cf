//! Operators' pauses: of a whole processor, of one of its tenants, or of one lane.
//!
//! A pause is a row that a running host polls for. A paused processor reads nothing more. A paused
//! lane is left behind with a row, like a blocked one, with the pause as its reason. Work under way
//! is not interrupted.

use std::sync::Arc;

use crate::{
    db::{
        Error, GenericClient, Session,
        audit::{self, AuditEntry},
    },
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId},
    },
};

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The tenant whose lanes are paused; none for the whole processor.
    pub tenant: Option<Arc<str>>,
    /// The key of the only lane that is paused, if any.
    pub key: Option<Arc<str>>,
    /// Who paused it, and when.
    pub reason: Reason,
}

impl Pause {
    /// Whether it covers a lane.
    pub fn covers(&self, lane: &LaneKey) -> bool {
        let tenant = self.tenant.as_deref().is_none_or(|tenant| tenant == lane.tenant.as_str());
        tenant && self.key.as_deref().is_none_or(|key| *key == *lane.key)
    }

    /// The pause as one line, as `decisions/marks.sql` writes it.
    pub(super) fn line(&self) -> String {
        let (tenant, key) = (self.tenant.as_deref().unwrap_or(""), self.key.as_deref().unwrap_or(""));
        format!("{tenant} {key} {}", self.reason.message)
    }

    /// Whether it covers the whole processor.
    pub fn covers_processor(&self) -> bool {
        self.tenant.is_none()
    }
}

/// Reads the pauses of a processor.
pub async fn read(session: &Session, processor: &ProcessorId) -> Result<Vec<Pause>, Error> {
    let rows = session.query(include_str!("pauses/read.sql"), &[&processor.as_str()]).await?;
    let some = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    Ok(rows
        .iter()
        .map(|row| Pause {
            tenant: some(row.get(0)),
            key: some(row.get(1)),
            reason: Reason::new("paused", row.get::<_, &str>(2)),
        })
        .collect())
}

/// Pauses a processor, a tenant of it, or a lane. Returns whether that was not paused before.
pub async fn pause(
    client: &impl GenericClient,
    processor: &str,
    tenant: Option<&str>,
    key: Option<&str>,
) -> Result<bool, Error> {
    let params: [&(dyn crate::db::types::ToSql + Sync); 3] = [&processor, &tenant.unwrap_or(""), &key.unwrap_or("")];
    Ok(client.execute(include_str!("pauses/put.sql"), &params).await? > 0)
}

/// Pauses a processor on behalf of its failure policy, and records it in the audit log. Returns
/// whether it was not paused before.
pub(super) async fn pause_by_policy(session: &mut Session, processor: &ProcessorId) -> Result<bool, Error> {
    let transaction = session.client_mut().transaction().await?;
    let paused = pause(&transaction, processor.as_str(), None, None).await?;
    if paused {
        let entry = AuditEntry { processor: Some(processor), ..AuditEntry::new("failure policy", "pause") };
        audit::record(&transaction, &entry).await?;
    }
    transaction.commit().await?;
    Ok(paused)
}

/// Lifts pauses: all of a processor, or those of a tenant or a lane. Returns their number.
pub async fn lift(
    client: &impl GenericClient,
    processor: &str,
    tenant: Option<&str>,
    key: Option<&str>,
) -> Result<u64, Error> {
    client.execute(include_str!("pauses/lift.sql"), &[&processor, &tenant, &key]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TenantId;

    #[test]
    fn a_pause_covers_what_it_names() {
        let lane = |tenant: &str, key: &str| LaneKey { tenant: TenantId::parse(tenant).unwrap(), key: key.into() };
        let pause = |tenant: Option<&str>, key: Option<&str>| Pause {
            tenant: tenant.map(Arc::from),
            key: key.map(Arc::from),
            reason: Reason::new("paused", "by a test"),
        };
        assert!(pause(None, None).covers(&lane("a", "a")) && pause(None, None).covers_processor());
        assert!(pause(Some("a"), None).covers(&lane("a", "s1")) && !pause(Some("a"), None).covers(&lane("b", "s1")));
        assert!(
            pause(Some("a"), Some("s1")).covers(&lane("a", "s1"))
                && !pause(Some("a"), Some("s1")).covers(&lane("a", "s2"))
        );
    }
}
