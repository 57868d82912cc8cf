//! A term: one uninterrupted ownership of a processor, and everything that is only valid during it.
//!
//! It begins with a new fence and what the database says about progress, and it ends with the first lost connection, refused fence or
//! unknown outcome. Then all of it is dropped at once: pages under way, effects, cached documents. Nothing survives into the next term
//! but what was committed.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    commit::Committer,
    exceptions::{self, Exception},
};
use crate::{
    cluster::fence,
    consumer::pages::{Pages, Reader},
    db::Db,
    model::{
        cursor::Progress,
        handler::Descriptor,
        ids::{BUCKETS, LaneKey},
    },
    projections::documents::Documents,
};

/// What one ownership knows.
pub struct Term {
    /// Commits, showing the fence.
    pub committer: Committer,
    /// Reads the log.
    pub reader: Reader,
    /// Reads documents.
    pub documents: Arc<Documents>,
    /// What the cursor rows say.
    pub stored: Progress,
    /// Where the tail stands: ahead of `stored` by events that are not this processor's, or by none.
    pub progress: Progress,
    /// Whether events lie between the two, so that it is worth storing.
    pub passed_events: bool,
    /// Lanes behind the tail.
    pub exceptions: BTreeMap<LaneKey, Exception>,
}

impl Term {
    /// Takes a new fence, and reads where things stand under it.
    pub async fn begin(
        db: &Db,
        pages: &Arc<Pages>,
        descriptor: &Descriptor,
        digest: &str,
        cache_bytes: usize,
    ) -> anyhow::Result<Term> {
        let mut session = db.connect(&format!("commit {}", descriptor.id)).await?;
        let (fence, cursors) = fence::take(&mut session, &descriptor.id).await?;
        let Some((_, stored)) = cursors.first().cloned() else {
            anyhow::bail!("processor {} has no cursors", descriptor.id)
        };
        anyhow::ensure!(
            cursors.len() == usize::from(BUCKETS) && cursors.iter().all(|(_, progress)| *progress == stored),
            "the {} buckets of processor {} do not stand at one place; another version of the host wrote them",
            cursors.len(),
            descriptor.id
        );
        // Exceptions are read after the fence was taken: whatever an earlier owner still committed is in them.
        let exceptions = exceptions::read(&session, &descriptor.id).await?.into_iter().collect();
        let committer = Committer::open(session, &descriptor.id, digest, fence, &descriptor.collections).await?;
        let reader = pages.reader(&format!("read {}", descriptor.id)).await?;
        let documents = Documents::open(db, &descriptor.collections, cache_bytes).await?;
        Ok(Term {
            committer,
            reader,
            documents: Arc::new(documents),
            progress: stored.clone(),
            stored,
            passed_events: false,
            exceptions,
        })
    }
}
