//! A check of the rights that a host's role needs.
//!
//! All missing rights are found together and before anything is changed, as statements that a
//! database administrator can run. The role must own the tables and functions only while migrations
//! are pending; otherwise rights to use them are enough. Everything in the schemas `sandmill` and
//! `sandmill_documents` belongs to Sandmill.

use super::{Error, GenericClient};

/// The rights that a role lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the role {role} lacks rights in the database {database}; nothing was changed. Let a superuser run this there, or connect as \
     the tables' owner:\n\n{}",
    self.script()
)]
pub struct MissingRights {
    /// The role, quoted if SQL requires it.
    pub role: String,
    /// The database.
    pub database: String,
    /// Statements that grant the missing rights, without semicolons, in an order that works.
    pub statements: Vec<String>,
    /// Whether migrations are pending; none if the role may not read that.
    pub pending: Option<bool>,
}

impl MissingRights {
    /// The statements as a script for a superuser.
    fn script(&self) -> String {
        let mut script = String::new();
        for statement in &self.statements {
            script += &format!("{statement};\n");
            if statement.starts_with("grant create on database ") {
                script += &format!(
                    "-- or instead: {}\n",
                    OWN_SCHEMAS.map(|schema| format!("create schema {schema} authorization {};", self.role)).join(" ")
                );
            }
        }
        if self.pending.is_none() {
            script +=
                "-- The role may not read yet whether migrations are pending. If so, it must also own the tables.\n";
        }
        script.trim_end().into()
    }
}

/// The schemas that Sandmill creates for itself.
pub(super) const OWN_SCHEMAS: [&str; 3] = ["sandmill", "sandmill_documents", "sandmill_tenant"];

/// Finds the rights that the session's role lacks to run a host, and to migrate if migrations are
/// `pending`. If `views` is given, the views are about to move to that schema, which is created if
/// it is missing.
pub(super) async fn missing(
    client: &impl GenericClient,
    pending: Option<bool>,
    views: Option<&str>,
) -> Result<Option<MissingRights>, Error> {
    let moves = views.is_some();
    let views = match views {
        Some(schema) => schema.to_string(),
        None => views_schema(client).await?,
    };
    let rows = client.query(include_str!("rights/missing.sql"), &[&pending.unwrap_or(false), &views, &moves]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let names = client.query_one("select quote_ident(current_user), current_database()::text", &[]).await?;
    let statements = rows.iter().map(|row| row.get(0)).collect();
    Ok(Some(MissingRights { role: names.get(0), database: names.get(1), statements, pending }))
}

/// The schema of the collections' views. If the role may not read it from the store, a guess: the
/// schema of an existing view, or `public`.
async fn views_schema(client: &impl GenericClient) -> Result<String, Error> {
    let row = client.query_one(include_str!("rights/views_schema.sql"), &[]).await?;
    if !row.get::<_, bool>(0) {
        return Ok(row.get(1));
    }
    Ok(client.query_one("select views_schema from sandmill.store", &[]).await?.get(0))
}
