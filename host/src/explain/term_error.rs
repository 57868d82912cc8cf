//! Remedies for database errors that end terms. Pure.

use crate::processor::status::TermError;

/// The remedy for an error of a processor. The host also retries automatically.
pub(super) fn remedy(processor: &str, error: &TermError) -> String {
    let state = error.sqlstate().unwrap_or_default();
    if ["42P01", "42703", "3F000"].contains(&state) {
        return format!(
            "one of Sandmill's tables is missing or incomplete: restore it from a backup. A table of documents (sandmill_documents.c…) can be rebuilt instead: take the plugin's file out of the plugins folder, run `sandmill processors remove {processor} --drop-documents`, and put the file back. A restart of the host alone would create an empty table"
        );
    }
    by_sqlstate(state).into()
}

/// The remedy for an error with this SQLSTATE, which is empty if the error has none.
fn by_sqlstate(state: &str) -> &'static str {
    match state {
        "42501" => {
            "grant the host's role the missing privilege: it must own, or have all privileges on, everything in the schemas sandmill and sandmill_documents"
        }
        "55P03" => {
            "another session holds a lock that the processor needs: end the transactions that `sandmill explain` names"
        }
        "57014" => "its statements are cancelled with pg_cancel_backend: find the program or person that calls it",
        "40001" | "40P01" => {
            "another session writes to Sandmill's tables, which only the host and sandmill.append may do: find and stop it"
        }
        "25006" => "the database is read-only, probably a standby: use the primary in the host's database address",
        "53100" => "the database's disk is full: free some space",
        "53200" => {
            "the database is out of memory or of space in its lock table: raise shared_buffers or max_locks_per_transaction"
        }
        "53300" => "the database has no free connection: raise max_connections, or let fewer programs connect",
        "SM412" => {
            "another program writes this processor's rows or documents: stop it; only one host at a time may run the processors of a database"
        }
        state if ["08", "57"].iter().any(|class| state.starts_with(class)) => CONNECTION,
        "" => CONNECTION,
        _ => "fix what the database reports; the host's log has every occurrence",
    }
}

const CONNECTION: &str =
    "check that the database is up and reachable from the host; the host's log has every occurrence";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_remedy() {
        let remedy = |text: &str| {
            let at = || "2026-01-02T03:04:05Z".to_string();
            remedy("carts", &TermError { error: text.into(), since: at(), at: at(), times: 3 })
        };
        assert!(remedy("permission denied for table x_1 (SQLSTATE 42501)").starts_with("grant the host's role"));
        let missing = remedy("relation \"x\" does not exist (SQLSTATE 42P01)");
        assert!(missing.contains("restore it") && missing.contains("remove carts --drop-documents"), "{missing}");
        assert!(remedy("canceling statement due to lock timeout (SQLSTATE 55P03)").contains("lock"));
        assert!(remedy("could not extend file (SQLSTATE 53100) Hint: Check free disk space.").contains("disk"));
        assert!(remedy("cannot execute UPDATE in a read-only transaction (SQLSTATE 25006)").contains("read-only"));
        assert_eq!(remedy("connection closed"), CONNECTION);
        assert_eq!(remedy("terminating connection (SQLSTATE 57P01)"), CONNECTION);
        assert!(remedy("of a kind that nobody knows (SQLSTATE XX000)").starts_with("fix what"));
    }
}
