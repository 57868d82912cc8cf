//! Permissions of other roles: to append and read streams, and to read documents, all of them or a
//! tenant's.
//!
//! Each is granted or revoked as a whole. `sandmill.role_grants` keeps those in force, so that the
//! views of a later collection are granted too, by the function that makes them. All changes of one
//! call are made in one transaction, and repeating them changes nothing.

use std::fmt;

use super::{Error, Session, SqlState, describe};

/// What a role may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Append events through `sandmill.append`, and read streams.
    Append,
    /// Read the views of collections, later ones included: of all tenants' documents, or of one
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

/// What is to become of a role's permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The role's name, as the database has it.
    pub role: String,
    /// What it may do, or may no longer.
    pub permission: Permission,
    /// The tenant whose documents the role may read; none for all tenants.
    pub tenant: Option<String>,
    /// Whether it is granted, rather than revoked.
    pub grant: bool,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// What was asked for.
    pub change: Change,
    /// Whether the grant was in force before.
    pub before: bool,
    /// Whether the role may do it now. After a revocation it still may where it is a superuser, or
    /// has the same right through another role or `public`.
    pub allowed: bool,
    /// The statements that were run.
    pub statements: Vec<String>,
}

/// Why nothing was granted or revoked.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The cluster has no such role.
    #[error(
        "there is no role {0:?}, so nothing was granted or revoked. See whether it is spelled as in pg_roles, or create it first: \
         create role {quoted} login",
        quoted = quoted(.0)
    )]
    NoSuchRole(String),
    /// The session's role may not grant this.
    #[error(
        "this user may not grant or revoke this, so nothing was changed. Connect as the owner of the tables and views, or let a \
         superuser run the command"
    )]
    Denied,
    /// The database could not be asked.
    #[error("change what roles may do: {}", describe(.0))]
    Database(#[from] Error),
}

/// A role's name as SQL takes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes all changes, or none.
pub async fn apply(session: &mut Session, changes: &[Change]) -> Result<Vec<Changed>, GrantError> {
    let transaction = session.client_mut().transaction().await?;
    // A plugin that makes a collection's view holds it meanwhile.
    transaction
        .batch_execute("set local lock_timeout = '60s'; lock table sandmill.role_grants in share row exclusive mode")
        .await
        .map_err(denied)?;
    let mut changed = Vec::new();
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
        if exists.is_none() {
            // A role that was dropped has lost its rights with that; only the note of them is left.
            if change.grant || !before {
                return Err(GrantError::NoSuchRole(change.role.clone()));
            }
            changed.push(Changed { change: change.clone(), before, allowed: false, statements: Vec::new() });
            continue;
        }
        let sql = include_str!("grants/statements.sql");
        let rows = transaction.query(sql, &[role, &permission, &change.grant, &tenant]).await?;
        let statements: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        transaction.batch_execute(&statements.join(";\n")).await.map_err(denied)?;
        let row = transaction.query_one(include_str!("grants/allowed.sql"), &[role, &permission, &tenant]).await?;
        // To grant what one has no right to grant may be a warning only.
        let allowed = row.get::<_, bool>(0) && (change.grant || change.tenant.is_some() || !statements.is_empty());
        if change.grant && !allowed {
            return Err(GrantError::Denied);
        }
        changed.push(Changed { change: change.clone(), before, allowed, statements });
    }
    transaction.commit().await?;
    Ok(changed)
}

fn denied(error: Error) -> GrantError {
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) { GrantError::Denied } else { error.into() }
}
