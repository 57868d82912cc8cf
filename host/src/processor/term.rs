//! A term: one uninterrupted ownership of a processor's share, with everything that is valid only
//! during it.
//!
//! It begins with a new fence and the progress in the database. It ends with the first lost
//! connection, rejected fence or unknown outcome of a commit. Then all of its state is dropped at
//! once: pages under way, effects and cached documents. Only what was committed survives into the
//! next term.

use std::sync::Arc;

use super::{
    Shared,
    commit::{Committer, TermStart},
    lane_checkpoints::LaneRow,
    set_aside::SetAsideState,
    shares,
};
use crate::{
    cluster::fence::Fence,
    consumer::pages::{Pages, Reader},
    db::pool::Borrower,
    model::{cursor::Progress, ids::LaneKey, share::Share, spec::ProcessorSpec},
    projections::documents::TermDocuments,
};

/// The state that a term begins with.
pub struct Term {
    /// The committer, which holds the fence.
    pub committer: Arc<Committer>,
    /// The reader of pages.
    pub pages: Reader,
    /// The reader of the log for lanes behind.
    pub lanes: Reader,
    /// The source of readers for set-aside events.
    pub pages_of_set_aside: SetAsideReaders,
    /// The reader of documents.
    pub documents: Arc<TermDocuments>,
    /// The progress in the cursor.
    pub stored: Progress,
    /// Lanes behind the cursor.
    pub checkpoints: Vec<(LaneKey, LaneRow)>,
    /// What was set aside.
    pub set_aside: SetAsideState,
}

/// A source of readers for set-aside events: some lanes handle such events at the same time, each
/// with a reader of its own. None of them reads pages that were read before the term.
pub struct SetAsideReaders {
    pages: Arc<Pages>,
    borrower: Borrower,
}

impl SetAsideReaders {
    /// A reader.
    pub fn reader(&self) -> Reader {
        self.pages.reader(self.borrower.clone())
    }
}

impl Term {
    /// Takes a new fence of the processor's share, and reads the progress under it. `host` is the
    /// pid of the session that holds the host lock. Sets `owned` as soon as the fence is taken,
    /// even if something fails later. Fails unless each bucket has one owner.
    pub async fn begin(
        shared: &Shared,
        spec: &ProcessorSpec,
        host: i32,
        owned: &mut Option<(Share, Fence)>,
    ) -> anyhow::Result<Term> {
        let (sessions, id) = (&shared.connections, &spec.id);
        let session = sessions.commits.lend(&Borrower::of(id, "commit")).await?;
        let found = shares::serving(&session, id).await?;
        session.give_back();
        let share = shares::only(id, found)?;
        let Some(TermStart { committer, stored, checkpoints, set_aside }) =
            Committer::begin(&sessions.commits, share, &spec.descriptor.collections, host, owned).await?
        else {
            anyhow::bail!("the shares of processor {id} changed while a term began");
        };
        let pages = shared.pages.reader(Borrower::of(id, "read"));
        let lanes = shared.pages.reader(Borrower::of(id, "lanes"));
        let pages_of_set_aside =
            SetAsideReaders { pages: shared.pages.clone(), borrower: Borrower::of(id, "set aside") };
        let (cache_bytes, read_bytes) = (shared.config.document_cache_mib << 20, shared.config.read_mib << 20);
        let documents = TermDocuments::new(&sessions.documents, spec, cache_bytes, read_bytes);
        Ok(Term {
            committer: Arc::new(committer),
            pages,
            lanes,
            pages_of_set_aside,
            documents: Arc::new(documents),
            stored,
            checkpoints,
            set_aside,
        })
    }
}
