//! The conformance suite for every layout of an event store.

/// Sandmill's own event store.
mod native {
    use sandmill::{
        db::{Db, Session},
        source::{OpenSource, native::Native},
    };
    use sandmill_client::Append;
    use sandmill_tests::{conformance, conformance::Layout, database};

    struct NativeLayout {
        db: Db,
        source: Native,
    }

    impl NativeLayout {
        async fn fresh() -> Self {
            let db = database().await.db;
            NativeLayout { source: Native::new(db.clone()), db }
        }
    }

    impl Layout for NativeLayout {
        fn db(&self) -> &Db {
            &self.db
        }

        fn source(&self) -> &dyn OpenSource {
            &self.source
        }

        async fn append(&self, session: &Session, append: &Append) -> Vec<String> {
            let appended = sandmill_client::append(&**session, append).await.unwrap();
            appended.into_iter().map(|event| event.id).collect()
        }
    }

    conformance!(NativeLayout::fresh().await);
}
