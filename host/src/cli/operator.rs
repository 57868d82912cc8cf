//! The operator who runs a command, as the audit log names them.

use rustix::process::getuid;

use crate::model::text;

/// The environment variable that names a person, for accounts that several people share.
const VARIABLE: &str = "SANDMILL_OPERATOR";
/// Maximum bytes of a name. 200: a name and an address.
const NAME_BYTES: usize = 200;

/// The name in `SANDMILL_OPERATOR`. Without it, the user of the operating system and the name of
/// this host, such as `ann@jump-1`. With `sudo`, it is the user who called it.
pub(super) fn name() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let name = variable(VARIABLE).unwrap_or_else(|| {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let uid = getuid().as_raw();
        let by_sudo = variable("SUDO_USER").filter(|_| uid == 0);
        // Users of a directory service are not in the file.
        let user = by_sudo.or_else(|| user_of(uid, &users)).or_else(|| variable("USER"));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}@{}", user.unwrap_or_else(|| format!("uid-{uid}")), host.trim())
    });
    text::within(name.trim(), NAME_BYTES).into_owned()
}

/// The name of a user in the text of `/etc/passwd`.
fn user_of(uid: u32, users: &str) -> Option<String> {
    let user = users.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()))?;
    user.split(':').next().map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number() {
        let users = "root:x:0:0:root:/:/bin/sh\nbroken\n\nann:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user_of(1000, users).as_deref(), Some("ann"));
        assert_eq!((user_of(0, users).as_deref(), user_of(100, users)), (Some("root"), None));
    }
}
