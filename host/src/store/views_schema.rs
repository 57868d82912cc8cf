//! The schema of the views that show all tenants' documents, a setting of the store.
//!
//! A move takes the views along with the rights on them, in one transaction. It waits for queries
//! that read them, and for plugins that make views of their own.

use crate::db::{Error, Session};

/// Names that are taken: Sandmill's own schemas hold no view that a collection is named after. The
/// table has the same bounds.
const TAKEN: [&str; 4] = ["information_schema", "sandmill", "sandmill_documents", "sandmill_tenant"];
/// How long a move waits for readers. Default 60 s: those that come meanwhile wait behind it.
const PATIENCE_FOR_READERS: &str = "60s";

/// Checks the name of a schema as an argument.
pub fn parse(name: &str) -> Result<String, String> {
    match name {
        _ if name.is_empty() || name.len() > 63 || name.contains('\0') => {
            Err("the name of a schema has 1 to 63 bytes".into())
        }
        _ if name.starts_with("pg_") || TAKEN.contains(&name) => {
            Err("the views cannot lie in a schema of PostgreSQL's or in one of Sandmill's own".into())
        }
        _ => Ok(name.into()),
    }
}

/// Moves the views to a schema, which is made unless it is there, and returns the one before.
pub async fn set_views_schema(session: &mut Session, schema: &str) -> Result<String, Error> {
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute(&format!("set local lock_timeout = '{PATIENCE_FOR_READERS}'")).await?;
    let before = transaction.query_one("select sandmill.move_documents_views($1)", &[&schema]).await?.get(0);
    transaction.commit().await?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_of_others_are_refused_before_the_database_is_asked() {
        for name in ["public", "app", "My schema", "sandmill_views"] {
            assert_eq!(parse(name).unwrap(), name);
        }
        for name in ["", "sandmill", "sandmill_tenant", "pg_catalog", &"x".repeat(64)] {
            parse(name).unwrap_err();
        }
    }
}
