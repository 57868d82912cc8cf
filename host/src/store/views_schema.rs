//! The schema of the views that show all tenants' documents, a setting of the store.
//!
//! One transaction moves the views and the rights on them. It waits for queries that read the
//! views, and for plugins that create views.

use serde_json::json;

use crate::db::{
    Error, Session,
    audit::{self, AuditEntry},
};

/// Schemas that cannot contain the views, in addition to those that begin with `pg_`. The table
/// `sandmill.store` has the same check.
const TAKEN: [&str; 4] = ["information_schema", "sandmill", "sandmill_documents", "sandmill_tenant"];
/// Maximum wait of a move for readers. 60 s: in the meantime, later readers queue behind the move.
const PATIENCE_FOR_READERS: &str = "60s";

/// Checks the name of a schema as an argument.
pub fn parse(name: &str) -> Result<String, String> {
    match name {
        _ if name.is_empty() || name.len() > 63 || name.contains('\0') => {
            Err("a schema's name must have 1 to 63 bytes".into())
        }
        _ if name.starts_with("pg_") || TAKEN.contains(&name) => {
            Err("the schemas of PostgreSQL and of Sandmill cannot contain the views; name another one, such as app"
                .into())
        }
        _ => Ok(name.into()),
    }
}

/// Moves the views to a schema on behalf of `who`, and returns the former one. The schema is
/// created if it is missing.
pub async fn set_views_schema(session: &mut Session, schema: &str, who: &str) -> Result<String, Error> {
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute(&format!("set local lock_timeout = '{PATIENCE_FOR_READERS}'")).await?;
    let before: String = transaction.query_one("select sandmill.move_documents_views($1)", &[&schema]).await?.get(0);
    if before != schema {
        let details = json!({ "before": before, "now": schema });
        audit::record(&transaction, &AuditEntry { details, ..AuditEntry::new(who, "migrate --views-schema") }).await?;
    }
    transaction.commit().await?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_schemas_are_rejected_without_asking_the_database() {
        for name in ["public", "app", "My schema", "sandmill_views"] {
            assert_eq!(parse(name).unwrap(), name);
        }
        for name in ["", "sandmill", "sandmill_tenant", "pg_catalog", &"x".repeat(64)] {
            parse(name).unwrap_err();
        }
    }
}
