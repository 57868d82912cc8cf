//! What people told to wait: a whole processor, one tenant of it, or one lane.
//!
//! A pause is a row that the host reads now and then. A paused processor reads nothing more; a paused lane is left behind like any other
//! that does not move, with the pause as its reason, and others go on. Nothing that is under way is cut off.

use std::sync::Arc;

use crate::{
    db::{Error, Session},
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId},
    },
};

/// Who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Only lanes of this tenant; none for the whole processor.
    pub tenant: Option<Arc<str>>,
    /// Only the lane with this key.
    pub key: Option<Arc<str>>,
    /// By whom and since when.
    pub reason: Reason,
}

impl Pause {
    /// Whether a lane is meant.
    pub fn concerns(&self, lane: &LaneKey) -> bool {
        let tenant = self.tenant.as_deref().is_none_or(|tenant| tenant == lane.tenant.as_str());
        tenant && self.key.as_deref().is_none_or(|key| *key == *lane.key)
    }

    /// Whether everything is meant.
    pub fn is_whole(&self) -> bool {
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

/// Tells a processor, a tenant of it, or a lane to wait. Says whether it did not wait already.
pub async fn pause(session: &Session, processor: &str, tenant: Option<&str>, key: Option<&str>) -> Result<bool, Error> {
    let params: [&(dyn crate::db::types::ToSql + Sync); 3] = [&processor, &tenant.unwrap_or(""), &key.unwrap_or("")];
    Ok(session.execute(include_str!("pauses/put.sql"), &params).await? > 0)
}

/// Takes pauses back: all of a processor, or those of a tenant or a lane. Returns how many there were.
pub async fn lift(session: &Session, processor: &str, tenant: Option<&str>, key: Option<&str>) -> Result<u64, Error> {
    session.execute(include_str!("pauses/lift.sql"), &[&processor, &tenant, &key]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TenantId;

    #[test]
    fn a_pause_concerns_what_it_names() {
        let lane = |tenant: &str, key: &str| LaneKey { tenant: TenantId::parse(tenant).unwrap(), key: key.into() };
        let pause = |tenant: Option<&str>, key: Option<&str>| Pause {
            tenant: tenant.map(Arc::from),
            key: key.map(Arc::from),
            reason: Reason::new("paused", "by a test"),
        };
        assert!(pause(None, None).concerns(&lane("a", "a")) && pause(None, None).is_whole());
        assert!(
            pause(Some("a"), None).concerns(&lane("a", "s1")) && !pause(Some("a"), None).concerns(&lane("b", "s1"))
        );
        assert!(
            pause(Some("a"), Some("s1")).concerns(&lane("a", "s1"))
                && !pause(Some("a"), Some("s1")).concerns(&lane("a", "s2"))
        );
    }
}
