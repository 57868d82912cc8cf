//! The balance of each account: one document per stream.

use sandmill_guest::prelude::*;
use serde::{Deserialize, Serialize};

/// The event types, with the fields of their data.
#[derive(Deserialize)]
enum AccountEvent {
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

/// The document. Its initial state is `Default`.
#[derive(Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
    entries: u64,
}

impl Document for Account {
    const COLLECTION: &str = "{{collection}}";
    type Event<'e> = AccountEvent;

    fn descriptor() -> Descriptor {
        descriptor!("{{name}}")
    }

    /// The id of the document that an event changes.
    fn id<'e>(_: &AccountEvent, recorded: Event<'e>) -> Cow<'e, str> {
        recorded.stream_id().into()
    }

    /// Applies an event to its document.
    fn evolve(&mut self, event: AccountEvent, _: Event<'_>) {
        self.entries += 1;
        match event {
            AccountEvent::Deposited { cents } => self.balance += cents as i64,
            AccountEvent::Withdrawn { cents } => self.balance -= cents as i64,
        }
    }
}

export_projector!(Account);

#[cfg(test)]
mod tests {
    use sandmill_guest::testing::{event, given, json};

    use super::*;

    #[test]
    fn deposits_and_withdrawals_change_the_balance() {
        given::<Account>([
            event("Deposited", json!({"cents": 500})).stream("account-1"),
            event("Withdrawn", json!({"cents": 120})).stream("account-1"),
            event("Deposited", json!({"cents": 70})).stream("account-2"),
        ])
        .then(
            "{{collection}}",
            [
                ("account-1", json!({"balance": 380, "entries": 2})),
                ("account-2", json!({"balance": 70, "entries": 1})),
            ],
        );
    }
}
