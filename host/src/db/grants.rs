//! Permissions of other roles: to append and to read streams, and to read the documents of all
//! tenants or of one.
//!
//! Each permission is granted or revoked as a whole. The table `sandmill.role_grants` keeps those
//! in force, so the function that creates the view of a later collection grants that view too. One
//! call is one transaction, and repeating it changes nothing.

use std::fmt;

use serde_json::json;

use super::{
    Error, Session, SqlState,
    audit::{self, AuditEntry},
    describe,
};

/// A permission of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// To append events with `sandmill.append`, and to read streams.
    Append,
    /// To read the views of collections, later ones included: of all tenants' documents, or of one
    /// tenant's.
    Read,
}

impl Permission {
    /// Its name in tables and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Permission::Append => "append",
            Permission::Read => "read",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A requested change of a role's permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantChange {
    /// The role's name, spelled as in `pg_roles`.
    pub role: String,
    /// The permission to grant or revoke.
    pub permission: Permission,
    /// The tenant whose documents the role may read; none for all tenants.
    pub tenant: Option<String>,
    /// True to grant it, false to revoke it.
    pub grant: bool,
}

/// The outcome of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantOutcome {
    /// The requested change.
    pub change: GrantChange,
    /// Whether the grant was in force before.
    pub before: bool,
    /// Whether the role has the permission now. After a revocation it still has it if it is a
    /// superuser, has a grant for all tenants, or has the rights through another role or `public`.
    pub allowed: bool,
    /// The statements that were run.
    pub statements: Vec<String>,
}

/// Why nothing was granted or revoked.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The cluster has no such role.
    #[error(
        "there is no role {0:?}; nothing was granted or revoked. Check the spelling in pg_roles, or create it first: \
         create role {quoted} login",
        quoted = quoted(.0)
    )]
    NoSuchRole(String),
    /// The session's role may not grant this.
    #[error(
        "the connected user may not grant or revoke this; nothing was changed. Connect as the owner of the tables and \
         views, or let a superuser run the command"
    )]
    Denied,
    /// Any other database error.
    #[error("grant or revoke permissions: {}", describe(.0))]
    Database(#[from] Error),
}

/// A role's name as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes all changes on behalf of `who`, or none.
pub async fn apply(session: &mut Session, changes: &[GrantChange], who: &str) -> Result<Vec<GrantOutcome>, GrantError> {
    let transaction = session.client_mut().transaction().await?;
    // A plugin that creates a collection's view locks `role_grants` until it commits, so this waits
    // longer than other statements.
    transaction
        .batch_execute("set local lock_timeout = '60s'; lock table sandmill.role_grants in share row exclusive mode")
        .await
        .map_err(denied)?;
    let mut outcomes = Vec::new();
    for change in changes {
        let (role, permission) = (&change.role, change.permission.as_str());
        let tenant = change.tenant.as_deref().unwrap_or_default();
        let exists = transaction.query_opt("select from pg_roles where rolname = $1::text", &[role]).await?;
        let sql = match change.grant {
            true => {
                "insert into sandmill.role_grants (role, permission, tenant) values ($1, $2, $3) on conflict do nothing"
            }
            // Without a tenant, the grants for single tenants are deleted as well.
            false => "delete from sandmill.role_grants where role = $1 and permission = $2 and $3 in ('', tenant)",
        };
        let rows = transaction.execute(sql, &[role, &permission, &tenant]).await.map_err(denied)?;
        let before = (rows == 0) == change.grant;
        if rows > 0 {
            let command = format!("migrate --{}-{permission}", if change.grant { "grant" } else { "revoke" });
            let (tenant, details) = (change.tenant.as_deref(), json!({ "role": role }));
            audit::record(&transaction, &AuditEntry { tenant, details, ..AuditEntry::new(who, &command) })
                .await
                .map_err(denied)?;
        }
        if exists.is_none() {
            // A dropped role has no rights left; only its row remains.
            if change.grant || !before {
                return Err(GrantError::NoSuchRole(change.role.clone()));
            }
            outcomes.push(GrantOutcome { change: change.clone(), before, allowed: false, statements: Vec::new() });
            continue;
        }
        let sql = include_str!("grants/statements.sql");
        let rows = transaction.query(sql, &[role, &permission, &change.grant, &tenant]).await?;
        let statements: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        transaction.batch_execute(&statements.join(";\n")).await.map_err(denied)?;
        let row = transaction.query_one(include_str!("grants/allowed.sql"), &[role, &permission, &tenant]).await?;
        // PostgreSQL may only warn about a grant that the user has no right to give.
        let allowed = row.get::<_, bool>(0) && (change.grant || change.tenant.is_some() || !statements.is_empty());
        if change.grant && !allowed {
            return Err(GrantError::Denied);
        }
        outcomes.push(GrantOutcome { change: change.clone(), before, allowed, statements });
    }
    transaction.commit().await?;
    Ok(outcomes)
}

fn denied(error: Error) -> GrantError {
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) { GrantError::Denied } else { error.into() }
}
